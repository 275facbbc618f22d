"""A trained rule as a folder: ``config.json``, ``model.safetensors`` and a model card."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from learned_opt.architecture import RuleConfig
from learned_opt.card import Origin, model_card
from learned_opt.files import locked, replace_files, staged
from learned_opt.memory import Meta
from learned_opt.names import unknown_name
from learned_opt.rule import UpdateRule
from learned_opt.serial import JSON, facts_to_json, from_json, to_json

FORMAT = "learned-opt rule"
FORMAT_VERSION = 1
SHIPPED = Path(__file__).resolve().parent / "weights"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
READINGS = 3
"""How often weights and configuration are read before it counts that they do not fit."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained rule.

    Attributes:
        config: Its architecture.
        meta: Its meta-parameters, on the CPU.
        facts: How it was meta-trained, as saved.
    """

    config: RuleConfig
    meta: Meta
    facts: dict[str, JSON]


def shipped_names() -> list[str]:
    """Names of the trained rules that come with the package."""
    return sorted(config.parent.name for config in SHIPPED.glob(f"*/{CONFIG}"))


def save_checkpoint(
    folder: str | Path, config: RuleConfig, meta: Meta, facts: Mapping[str, Any] | None = None
) -> None:
    """Save a rule, so that whatever happens the folder holds the old one or the new one, whole.

    The configuration holds the digest of the weights, and the new configuration waits beside the old one
    while the weights are put in place: `load_checkpoint` takes the one that fits. Of several processes that
    save into one folder, one does at a time; the last one's rule stays.

    Args:
        folder: Made if need be.
        config: The architecture.
        meta: Meta-parameters, as from `UpdateRule.init_meta`.
        facts: How it was meta-trained: anything that JSON can hold. Numbers that are not finite become null.

    Raises:
        ValueError: If the meta-parameters are not this architecture's, or not finite.
        TypeError: If a fact has no JSON form.
        OSError: If a file cannot be written; it names the file.
    """
    folder = Path(folder)
    UpdateRule(config).check_meta(meta)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in meta.items()}
    weights = save(tensors)
    plain_facts = facts_to_json(facts or {})
    origin: Origin = "shipped" if folder.resolve().parent == SHIPPED else "folder"
    card = model_card(folder.resolve().name, config, tensors, plain_facts, origin=origin)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "rule": to_json(config),
        "facts": plain_facts,
        "sha256": sha256(weights).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        folder / WEIGHTS: weights,
        folder / CONFIG: (json.dumps(document, indent=2, allow_nan=False) + "\n").encode(),
        folder / CARD: card.encode(),
    }
    with locked(folder):
        _finish_publishing(folder)
        replace_files(contents)


def load_checkpoint(name_or_folder: str | Path) -> Checkpoint:
    """Load a rule that ships with the package, by name, or one from a folder.

    Raises:
        CheckpointError: If there is none, or it is truncated, altered, foreign or of a newer format.
    """
    folder = _find(name_or_folder)
    weights, document = _read_matching(folder)
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    try:
        config = from_json(RuleConfig, document.get("rule"), "rule")
    except ValueError as error:
        raise CheckpointError(f"{config_path}: {error}") from error
    facts = document.get("facts")
    if not isinstance(facts, dict):
        raise CheckpointError(f"{config_path}: facts is {facts!r}; expected an object")
    try:
        meta = load(weights)
        UpdateRule(config).check_meta(meta)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{weights_path}: {error}") from error
    return Checkpoint(config, meta, facts)


def _finish_publishing(folder: Path) -> None:
    """Put a configuration in place that was left waiting when its weights already were."""
    waiting, weights = staged(folder / CONFIG), folder / WEIGHTS
    if waiting.exists() and weights.exists():
        with suppress(CheckpointError):
            if _parse_document(waiting)["sha256"] == sha256(_read(weights)).hexdigest():
                waiting.replace(folder / CONFIG)


def _find(name_or_folder: str | Path) -> Path:
    names = shipped_names()
    if isinstance(name_or_folder, str) and name_or_folder in names:
        return SHIPPED / name_or_folder
    folder = Path(name_or_folder)
    if folder.is_dir():
        if not any((folder / name).exists() for name in (CONFIG, WEIGHTS)):
            raise CheckpointError(f"{folder} holds no saved optimizer; expected {CONFIG} and {WEIGHTS} in it")
        return folder
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; expected a folder with {CONFIG} and {WEIGHTS}")
    unknown = unknown_name("shipped optimizer", str(name_or_folder), names)
    hub = "; one from the Hugging Face Hub is first fetched, with huggingface_hub.snapshot_download"
    raise CheckpointError(
        f"{unknown}; nor is there such a folder (shipped ones are in {SHIPPED})"
        f"{hub if str(name_or_folder).count('/') == 1 else ''}"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


def _read_matching(folder: Path) -> tuple[bytes, dict[str, JSON]]:
    """Weights and the configuration that fits them, read again where a save came between the two."""
    for _ in range(READINGS):
        weights = _read(folder / WEIGHTS)
        digest = sha256(weights).hexdigest()
        document = _document(folder, digest)
        if document["sha256"] == digest:
            return weights, document
    raise CheckpointError(
        f"{folder / WEIGHTS}: its SHA-256 is {digest[:12]}..., not {str(document['sha256'])[:12]}... "
        f"as {CONFIG} says: it is truncated, altered or from another checkpoint"
    )


def _document(folder: Path, digest: str) -> dict[str, JSON]:
    """The published configuration, or the one that waits to be if it is that which has the digest."""
    path = folder / CONFIG
    waiting = staged(path)
    if waiting.exists():
        with suppress(CheckpointError):
            document = _parse_document(waiting)
            if document["sha256"] == digest:
                return document
    return _parse_document(path)


def _parse_document(path: Path) -> dict[str, JSON]:
    try:
        document = json.loads(_read(path))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f'{path}: not a checkpoint of this package; expected "format": "{FORMAT}"')
    version = document.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{path}: format_version is {version!r}; expected a number from 1")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version} is newer than {FORMAT_VERSION}, the newest that this release "
            "reads; upgrade learned-opt"
        )
    if not isinstance(document.get("sha256"), str):
        raise CheckpointError(f"{path}: it lacks sha256")
    return document
