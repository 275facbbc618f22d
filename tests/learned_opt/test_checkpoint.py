import errno
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from time import sleep

import pytest
import torch
from safetensors.torch import save

from learned_opt import (
    CheckpointError,
    FLTConfig,
    MomentsConfig,
    RuleConfig,
    UpdateRule,
    checkpoint,
    files,
    load_checkpoint,
    save_checkpoint,
    shipped_names,
)
from learned_opt.memory import Meta

CONFIGS = {
    "flt": RuleConfig(memory=FLTConfig(betas=(0.8, 0.95)), hidden=5, scale="rms", epsilon=1e-6),
    "moments": RuleConfig(memory=MomentsConfig(second_beta=0.98), directions=2),
}


os_open = os.open


class Killed(BaseException):
    """Stands for a signal that ends the process."""


@pytest.fixture
def folder(tmp_path: Path, trained) -> Path:
    rule = UpdateRule()
    save_checkpoint(tmp_path / "old", rule.config, trained(rule), {"seed": 1})
    return tmp_path / "old"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_is(folder: Path, config: RuleConfig, meta: Meta, facts: dict[str, object]) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.config == config
    assert loaded.facts == facts
    assert loaded.meta.keys() == meta.keys()
    assert all(torch.equal(loaded.meta[name], tensor) for name, tensor in meta.items())


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """Let so many files reach the disk and the next one not."""
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == written + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_is_loaded_to_the_bit(tmp_path, trained, config, dtype) -> None:
    meta = trained(UpdateRule(config), dtype=dtype)
    facts = {"preset": "tiny", "seconds": 60.5, "families": ["quadratic"], "validation": {"loss": 0.5}}
    save_checkpoint(tmp_path / "deep" / "er", config, meta, facts)
    assert_is(tmp_path / "deep" / "er", config, meta, facts)
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


def test_facts_that_are_not_finite_become_null(folder, trained) -> None:
    rule = UpdateRule()
    save_checkpoint(folder, rule.config, trained(rule), {"loss": float("nan"), "curve": [1.0, float("inf")]})
    assert load_checkpoint(folder).facts == {"loss": None, "curve": [1.0, None]}


def test_facts_without_a_json_form_are_named_and_change_nothing(folder, trained) -> None:
    before = contents(folder)
    rule = UpdateRule()
    with pytest.raises(TypeError, match=r"history\.when is a complex"):
        save_checkpoint(folder, rule.config, trained(rule), {"history": {"when": 1j}})
    assert contents(folder) == before


def test_meta_parameters_that_are_not_the_rules_are_not_saved(folder) -> None:
    before = contents(folder)
    with pytest.raises(ValueError, match="unknown"):
        save_checkpoint(folder, CONFIGS["moments"], UpdateRule().init_meta())
    broken = UpdateRule().init_meta()
    broken["head.input_bias"][0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        save_checkpoint(folder, RuleConfig(), broken)
    assert contents(folder) == before


@pytest.mark.parametrize("fails", range(3))
def test_a_full_disk_leaves_the_previous_checkpoint_whole(folder, trained, monkeypatch, fails) -> None:
    before = contents(folder)
    rule = UpdateRule(CONFIGS["moments"])
    fill_the_disk(monkeypatch, fails)
    with pytest.raises(OSError, match=r"No space left.*(model\.safetensors|config\.json|README\.md)"):
        save_checkpoint(folder, rule.config, trained(rule))
    assert contents(folder) == before


@pytest.mark.parametrize("moment", range(9))
def test_a_kill_leaves_one_whole_checkpoint_the_old_or_the_new(folder, trained, monkeypatch, moment) -> None:
    before = load_checkpoint(folder)
    rule = UpdateRule(CONFIGS["moments"])
    meta = trained(rule)
    moments = []

    def dies(function):
        def wrapper(*args):
            moments.append(function.__name__)
            if len(moments) == moment + 1:
                raise Killed
            return function(*args)

        return wrapper

    monkeypatch.setattr(files.os, "fsync", dies(os.fsync))
    monkeypatch.setattr(files.Path, "replace", dies(Path.replace))
    with pytest.raises(Killed):
        save_checkpoint(folder, rule.config, meta, {"seed": 2})
    monkeypatch.undo()
    if moment < 4:
        assert_is(folder, before.config, before.meta, before.facts)
    else:
        assert_is(folder, rule.config, meta, {"seed": 2})
    save_checkpoint(folder, rule.config, meta, {"seed": 3})
    assert_is(folder, rule.config, meta, {"seed": 3})
    assert len(contents(folder)) == 3


@pytest.mark.parametrize("fails", range(3))
def test_a_full_disk_after_a_kill_leaves_what_was_left(folder, trained, monkeypatch, fails) -> None:
    rule = UpdateRule(CONFIGS["moments"])
    meta = trained(rule)
    replace, replaced = Path.replace, []

    def dies_at_the_second(path: Path, target: Path) -> Path:
        replaced.append(path)
        if len(replaced) == 2:
            raise Killed
        return replace(path, target)

    monkeypatch.setattr(files.Path, "replace", dies_at_the_second)
    with pytest.raises(Killed):
        save_checkpoint(folder, rule.config, meta, {"seed": 2})
    monkeypatch.undo()
    fill_the_disk(monkeypatch, fails)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, rule.config, trained(rule, seed=3), {"seed": 3})
    assert_is(folder, rule.config, meta, {"seed": 2})


def test_no_permission_to_write_is_said_with_the_file(folder, trained, monkeypatch) -> None:
    before = contents(folder)

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files.Path, "open", refuse)
    rule = UpdateRule()
    with pytest.raises(PermissionError, match=r"Permission denied.*old/model\.safetensors'"):
        save_checkpoint(folder, rule.config, trained(rule))
    monkeypatch.undo()
    assert contents(folder) == before


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps(document))


def rewrite(folder: Path, meta: Meta) -> None:
    """Put other weights in place, with a digest that fits."""
    weights = save(meta)
    (folder / "model.safetensors").write_bytes(weights)
    edit(folder, sha256=checkpoint.sha256(weights).hexdigest())


def spoil_truncated(folder: Path) -> str:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    return r"model\.safetensors: .*truncated"


def spoil_flipped_bit(folder: Path) -> str:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    return r"model\.safetensors: its SHA-256"


def spoil_empty_weights(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"")
    edit(folder, sha256=checkpoint.sha256(b"").hexdigest())
    return r"model\.safetensors: .*[Hh]eader"


def spoil_shape(folder: Path) -> str:
    rewrite(folder, UpdateRule().init_meta() | {"head.input_bias": torch.zeros(3)})
    return r"model\.safetensors: .*'head.input_bias' has shape \(3,\)"


def spoil_nan(folder: Path) -> str:
    rewrite(folder, UpdateRule().init_meta() | {"head.input_bias": torch.full((12,), float("nan"))})
    return r"model\.safetensors: .*finite"


def spoil_names(folder: Path) -> str:
    rewrite(folder, {"weight": torch.zeros(2)})
    return r"model\.safetensors: .*'weight' is unknown|is missing"


def spoil_missing_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return r"model\.safetensors: No such file"


def spoil_missing_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return r"config\.json: No such file"


def spoil_config_text(folder: Path) -> str:
    (folder / "config.json").write_bytes(b"\xff{")
    return r"config\.json: not JSON"


def spoil_foreign_config(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return r"config\.json: not a checkpoint of this package"


def spoil_newer(folder: Path) -> str:
    edit(folder, format_version=2)
    return r"config\.json: format version 2 is newer than 1"


def spoil_version(folder: Path) -> str:
    edit(folder, format_version="1")
    return r"config\.json: format_version is '1'"


def spoil_digest(folder: Path) -> str:
    edit(folder, sha256=None)
    return r"config\.json: .*sha256"


def spoil_facts(folder: Path) -> str:
    edit(folder, facts=[1])
    return r"config\.json: facts"


def spoil_rule(folder: Path) -> str:
    edit(folder, rule={"memory": {"kind": "flt"}, "hidden": 12, "directions": 4, "scale": "adam"})
    return r"config\.json: rule lacks epsilon"


SPOILERS = {name: function for name, function in globals().items() if name.startswith("spoil_")}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_checkpoint_that_cannot_be_used_is_refused_with_file_and_reason(folder, spoil) -> None:
    message = spoil(folder)
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_checkpoint(folder)
    assert str(folder) in str(refusal.value)


def test_shipped_rules_load_by_name(folder, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", folder.parent)
    assert shipped_names() == ["old"]
    assert load_checkpoint("old").facts == {"seed": 1}
    with pytest.raises(CheckpointError, match=r"'odl'; expected one of: old; did you mean 'old'\?"):
        load_checkpoint("odl")


def test_what_may_be_on_the_hub_is_not_downloaded_but_said() -> None:
    with pytest.raises(CheckpointError, match=r"'me/flt-mine'.*first fetched, with huggingface_hub"):
        load_checkpoint("me/flt-mine")
    with pytest.raises(CheckpointError, match=r"weights\)$"):
        load_checkpoint("flt-mine")


def test_a_file_is_no_folder(folder) -> None:
    with pytest.raises(CheckpointError, match="is a file; expected a folder"):
        load_checkpoint(folder / "config.json")


def test_shipped_checkpoints_are_sound() -> None:
    for name in shipped_names():
        load_checkpoint(name)


def test_of_several_that_save_into_one_folder_one_does_at_a_time(folder, trained, monkeypatch) -> None:
    rule = UpdateRule()
    metas = [trained(rule, seed=seed) for seed in range(4)]
    busy, overlaps = Lock(), []

    def replace_slowly(contents: dict[Path, bytes]) -> None:
        overlaps.append(busy.locked())
        with busy:
            sleep(0.05)
            files.replace_files(contents)

    monkeypatch.setattr(checkpoint, "replace_files", replace_slowly)
    with ThreadPoolExecutor() as pool:
        saving = [pool.submit(save_checkpoint, folder, rule.config, meta) for meta in metas]
    assert [one.exception() for one in saving] == [None] * 4
    assert overlaps == [False] * 4
    assert contents(folder).keys() == {"config.json", "model.safetensors", "README.md"}
    load_checkpoint(folder)


def test_a_process_that_was_forked_meanwhile_keeps_nobody_out(folder, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    opened = []
    monkeypatch.setattr(files.os, "open", lambda *args: opened.append(os_open(*args)) or opened[-1])
    with files.locked(folder):
        inherited = os.dup(opened[0])
    another = os_open(folder, os.O_RDONLY)
    fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for descriptor in (inherited, another):
        os.close(descriptor)


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_once_and_serves(folder, trained, monkeypatch, code) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    rule = UpdateRule()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for seed in range(2):
            meta = trained(rule, seed=seed)
            save_checkpoint(folder, rule.config, meta)
    message = f"{folder} cannot be locked ({os.strerror(code)}): write to it from one process at a time"
    assert [str(one.message) for one in told] == [message]
    assert_is(folder, rule.config, meta, {})


def test_a_save_between_weights_and_configuration_is_read_again(folder, trained, monkeypatch) -> None:
    rule, read, saved = UpdateRule(), checkpoint._read, []
    meta = trained(rule, seed=5)

    def read_before_a_save(path: Path) -> bytes:
        data = read(path)
        if not saved:
            saved.append(path.name)
            save_checkpoint(folder, rule.config, meta, {"seed": 2})
        return data

    monkeypatch.setattr(checkpoint, "_read", read_before_a_save)
    assert_is(folder, rule.config, meta, {"seed": 2})
    assert saved == ["model.safetensors"]
