import pickle
from pathlib import Path

import pytest
import torch

from learned_opt import (
    Checkpoint,
    CheckpointError,
    LearnedOptimizer,
    RuleConfig,
    UpdateRule,
    load_checkpoint,
    save_checkpoint,
)
from meta_train.entries import LearnedFactory, entries, fingerprint, is_learned, load_learned
from tasks import UnknownNameError

CONFIG = RuleConfig(hidden=3)


def checkpoint(seed: int = 0) -> Checkpoint:
    return Checkpoint(CONFIG, UpdateRule(CONFIG).init_meta(seed=seed), {})


def test_names_and_folders_become_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "mine", CONFIG, checkpoint().meta)
    monkeypatch.chdir(tmp_path)
    found = {
        entry.name: entry for entry in entries(["adam", "flt", "mine", "./mine", str(tmp_path / "mine")])
    }
    assert list(found) == ["adam", "flt", "mine", "mine-2", "mine-3"]
    assert found["mine"].identity == found["mine-3"].identity != found["flt"].identity
    assert [entry.kind for entry in found.values()] == ["baseline", *["learned"] * 4]


def test_unknown_names_list_what_there_is() -> None:
    assert not is_learned("admw")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'adamw'\?.* flt.* the folder of a saved"):
        entries(["admw"])


def test_libraries_and_modules_enter_by_name_too() -> None:
    names = ["lion", "torch.optim:SGD", "flt"]
    assert [entry.name for entry in entries(names)] == names


def test_flt_is_what_ships() -> None:
    assert fingerprint(load_learned("flt")) == fingerprint(load_checkpoint("flt-base"))


def test_the_factory_survives_the_way_to_another_process() -> None:
    factory = pickle.loads(pickle.dumps(LearnedFactory(checkpoint())))
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = factory([("weight", parameter)], lr=0.1)
    assert isinstance(optimizer, LearnedOptimizer)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.9, 0.9])


def test_variants_go_by_their_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "mine", CONFIG, checkpoint().meta)
    monkeypatch.chdir(tmp_path)
    names = ["flt", "flt-plain", "flt-orthogonal", "mine", "mine-orthogonal", "./mine-orthogonal"]
    found = entries(names)
    assert [entry.name for entry in found] == [*names[:-1], "mine-orthogonal-2"]
    assert [entry.label for entry in found[:3]] == ["FLT", "FLT, plain", "FLT, orthogonal"]
    identities = [entry.identity for entry in found]
    assert identities[0] == identities[2] != identities[1]
    assert identities[3] != identities[4] == identities[5]
    assert is_learned("flt-orthogonal")
    assert not is_learned("adam-orthogonal")
    matrix = torch.nn.Parameter(torch.eye(3))
    for entry, orthogonal in zip(found, (True, False, True, False, True, True), strict=True):
        optimizer = pickle.loads(pickle.dumps(entry.factory))([matrix], lr=0.1)
        assert [group["orthogonalize"] for group in optimizer.param_groups] == [orthogonal]


def test_a_folder_whose_name_ends_so_is_itself(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "mine-orthogonal", CONFIG, checkpoint().meta)
    assert not load_learned(str(tmp_path / "mine-orthogonal")).config.orthogonal
    with pytest.raises(CheckpointError):
        load_learned(str(tmp_path / "mine"))


def test_the_fingerprint_tells_weights_apart() -> None:
    assert fingerprint(checkpoint(0)) == fingerprint(checkpoint(0)) != fingerprint(checkpoint(1))


def test_weight_decay_is_of_the_learned_ones_alone_and_part_of_who_they_are() -> None:
    adam, plain = entries(["adam", "flt"])
    same, decayed = entries(["adam", "flt"], weight_decay=0.04)
    assert same.fingerprint == adam.fingerprint
    assert decayed.fingerprint != plain.fingerprint
    assert decayed.label == f"{plain.label}, decay 0.04"
    assert decayed.name == plain.name
    optimizer = decayed.build({"x": torch.zeros(2, requires_grad=True)}, 0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.04]


def test_other_optimizers_come_before_folders_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lion", "sgd", "celo"):
        save_checkpoint(tmp_path / name, CONFIG, checkpoint().meta)
    monkeypatch.chdir(tmp_path)
    assert not any(map(is_learned, ("lion", "sgd", "celo")))
    assert all(map(is_learned, ("./lion", "./sgd", "lion-orthogonal")))
    found = entries(["lion", "./lion", "sgd", "./sgd"])
    assert [(entry.name, entry.kind) for entry in found] == [
        ("lion", "baseline"),
        ("lion-2", "learned"),
        ("sgd", "baseline"),
        ("sgd-2", "learned"),
    ]
    assert fingerprint(load_learned("lion")) == fingerprint(checkpoint())
