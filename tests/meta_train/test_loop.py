import dataclasses
import errno
import json
import re
import signal
from pathlib import Path

import pytest
import torch

from learned_opt.checkpoint import load_checkpoint, save_checkpoint
from learned_opt.files import locked
from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.entries import load_learned
from meta_train.flat import flatten, unflatten
from meta_train.log import read_log
from meta_train.loop import Interrupted, meta_train
from meta_train.presets import PRESETS
from meta_train.state import CheckpointFailedError, has_state, saved_step
from meta_train.trainer import MAX_SKIPPED, DivergedError, MetaTrainer
from meta_train.validation import Validator

MICRO = MetaTrainConfig(
    families=("quadratic-noisy", "rastrigin-lois"),
    outer_steps=6,
    pairs=2,
    truncation=2,
    horizon=(2, 8),
    validation=("quadratic",),
    validation_every=3,
    validation_steps=4,
    compiled=False,
)


def test_a_run_leaves_an_optimizer_a_log_and_its_state(tmp_path):
    seen = []
    folder = meta_train(MICRO, tmp_path / "run", on_progress=seen.append)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.facts["inner_steps"] == 6 * 2 * 2 * 2 * 2
    assert [record["step"] for record in read_log(folder)] == [1, 2, 3, 4, 5, 6]
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert "validation" in read_log(folder)[2]
    assert has_state(folder)
    assert any((folder / "tensorboard").iterdir())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_run_keeps_the_best_weights_or_the_last(tmp_path, monkeypatch, keep):
    scores = iter([-0.2, -0.1])
    validate = Validator.__call__

    def scored(validator, meta):
        return dataclasses.replace(validate(validator, meta), score=next(scores))

    monkeypatch.setattr(Validator, "__call__", scored)
    trainer = MetaTrainer(dataclasses.replace(MICRO, keep=keep), _made(tmp_path / "run"), resume=False)
    met = [trainer.theta.detach().clone()]
    while trainer.step < MICRO.outer_steps:
        trainer.advance()
        met.append(trainer.theta.detach().clone())
    trainer.log.close()
    checkpoint = load_checkpoint(tmp_path / "run")
    step, score = (3, -0.2) if keep == "best" else (6, None)
    assert not torch.equal(met[3], met[6])
    torch.testing.assert_close(checkpoint.meta, unflatten(met[step], trainer.like), rtol=0, atol=0)
    assert (checkpoint.facts["kept_outer_step"], checkpoint.facts["validation_score"]) == (step, score)


def test_adam_as_it_is_scores_nothing(tmp_path):
    trainer = MetaTrainer(MICRO, _made(tmp_path / "run"), resume=False)
    trainer.log.close()
    assert trainer.validator(unflatten(trainer.theta.detach(), trainer.like)).score == 0.0


@pytest.mark.parametrize("start", ["", "learned"])
def test_a_start_that_nothing_beats_is_kept(tmp_path, monkeypatch, start):
    if start:
        start = str(tmp_path / "learned")
        save_checkpoint(start, MICRO.rule, UpdateRule(MICRO.rule).init_meta(seed=1), {})
    scores = iter([-0.3, -0.2, -0.1] if start else [0.2, 0.1])
    validate = Validator.__call__

    def scored(validator, meta):
        return dataclasses.replace(validate(validator, meta), score=next(scores))

    monkeypatch.setattr(Validator, "__call__", scored)
    trainer = MetaTrainer(dataclasses.replace(MICRO, start=start), _made(tmp_path / "run"), resume=False)
    begun = unflatten(trainer.theta.detach().clone(), trainer.like)
    while trainer.step < MICRO.outer_steps:
        trainer.advance()
    trainer.log.close()
    checkpoint = load_checkpoint(tmp_path / "run")
    torch.testing.assert_close(checkpoint.meta, begun, rtol=0, atol=0)
    expected = -0.3 if start else 0.0
    assert (checkpoint.facts["kept_outer_step"], checkpoint.facts["validation_score"]) == (0, expected)


def test_a_run_of_before_starts_were_scored_is_resumed(tmp_path):
    config = dataclasses.replace(MICRO, checkpoint_seconds=1e-9)
    trainer = MetaTrainer(config, _made(tmp_path / "run"), resume=False)
    trainer.best_score = None
    trainer.advance()
    trainer.log.close()
    resumed = MetaTrainer(config, tmp_path / "run", resume=True)
    resumed.log.close()
    assert (resumed.step, resumed.best_score) == (1, 0.0)


@pytest.mark.parametrize("estimator", ["pes", "nres", "es", "full-es", "backprop"])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(tmp_path, stop, estimator):
    config = dataclasses.replace(
        MICRO, checkpoint_seconds=1e-9, estimator=estimator, horizon_growth=0.5, sigma_end=0.5
    )
    straight = MetaTrainer(config, _made(tmp_path / "straight"), resume=False)
    for _ in range(config.outer_steps):
        straight.advance()

    broken = MetaTrainer(config, _made(tmp_path / "broken"), resume=False)
    for _ in range(stop):
        broken.advance()
    broken.log.close()
    resumed = MetaTrainer(config, tmp_path / "broken", resume=True)
    assert resumed.step == stop
    while resumed.step < config.outer_steps:
        resumed.advance()

    assert torch.equal(straight.theta, resumed.theta)
    assert torch.equal(straight.best, resumed.best)
    logs = [read_log(tmp_path / name) for name in ("straight", "broken")]
    for records in logs:
        for record in records:
            del record["seconds"]
    assert logs[0] == logs[1]


def test_a_run_moves_the_meta_parameters_and_another_seed_moves_them_elsewhere(tmp_path):
    runs = []
    for seed in (0, 1):
        trainer = MetaTrainer(
            dataclasses.replace(MICRO, seed=seed), _made(tmp_path / str(seed)), resume=False
        )
        start = trainer.theta.detach().clone()
        trainer.advance()
        runs.append(trainer.theta.detach() - start)
    assert all(run.abs().max() > 0 for run in runs)
    assert not torch.equal(*runs)


def test_a_gradient_that_is_not_finite_is_skipped_and_many_in_a_row_stop_the_run(tmp_path, monkeypatch):
    trainer = MetaTrainer(MICRO, _made(tmp_path / "run"), resume=False)
    start = trainer.theta.detach().clone()
    size = start.numel()
    with monkeypatch.context() as patch:
        nan = torch.full((size,), float("nan"))
        patch.setattr("meta_train.fleet.combine", lambda *_: (nan, nan))
        trainer.advance()
        assert torch.equal(trainer.theta, start)
        assert read_log(tmp_path / "run")[-1]["grad_norm"] is None
        trainer.skipped_in_row = MAX_SKIPPED - 1
        with pytest.raises(DivergedError, match="not finite"):
            trainer.advance()
    trainer.advance()
    assert torch.isfinite(trainer.theta).all()
    assert not torch.equal(trainer.theta, start)


@pytest.mark.parametrize(
    ("then", "message", "newest"),
    [
        (None, "^Stopped and saved in .*run$", 3),
        (KeyboardInterrupt, "^Stopped; the last checkpoint in .*run is 2 outer steps back$", 0),
        (RuntimeError, "^Stopped; the last checkpoint in .*run is 2 outer steps back$", 0),
    ],
)
def test_ctrl_c_says_whether_the_last_steps_are_saved(tmp_path, then, message, newest):
    def interrupt(progress):
        if progress.step == 2:
            signal.raise_signal(signal.SIGINT)
            if then:
                raise then

    with pytest.raises(Interrupted, match=message):
        meta_train(MICRO, tmp_path / "run", on_progress=interrupt)
    assert saved_step(tmp_path / "run") == newest


@pytest.mark.usefixtures("handler")
def test_what_torchrun_passes_on_is_no_second_ctrl_c(tmp_path, monkeypatch):
    def interrupt(progress):
        if progress.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with pytest.raises(Interrupted, match=r"^Stopped and saved in"):
        meta_train(MICRO, tmp_path / "run", on_progress=interrupt)
    assert saved_step(tmp_path / "run") == 3


def test_resuming_refuses_a_run_of_another_configuration_and_names_the_fields(tmp_path):
    trainer = MetaTrainer(MICRO, _made(tmp_path / "run"), resume=False)
    trainer.log.close()
    with pytest.raises(ValueError, match=r"sigma was 0.01, now 0.02"):
        meta_train(dataclasses.replace(MICRO, sigma=0.02), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="already holds a run"):
        meta_train(MICRO, tmp_path / "run")
    meta_train(dataclasses.replace(MICRO, checkpoint_seconds=7.0), tmp_path / "run", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_runs_in_one_folder_the_second_is_refused(tmp_path, resume):
    states = tmp_path / "run" / "state"
    (states / "000000003.partial").mkdir(parents=True)
    with locked(states), pytest.raises(ValueError, match="another run is under way in"):
        meta_train(MICRO, tmp_path / "run", resume=resume)
    assert [path.name for path in states.iterdir()] == ["000000003.partial"]


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no run to resume"):
        meta_train(MICRO, tmp_path / "run", resume=True)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "log.jsonl"])
def test_a_new_run_writes_over_no_optimizer(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"holds {re.escape(name)}, which a new run would write over"):
        meta_train(MICRO, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "{}")]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "state" / "000000000.partial").mkdir(parents=True)
    MetaTrainer(MICRO, tmp_path, resume=False).log.close()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["000000000"]


def test_a_run_that_is_past_the_outer_steps_is_refused(tmp_path):
    config = dataclasses.replace(MICRO, checkpoint_seconds=1e-9)
    trainer = MetaTrainer(config, _made(tmp_path / "run"), resume=False)
    for _ in range(2):
        trainer.advance()
    trainer.log.close()
    before = (tmp_path / "run" / "log.jsonl").read_text()
    with pytest.raises(ValueError, match="the run has 2 outer steps, more than outer_steps 1"):
        meta_train(dataclasses.replace(config, outer_steps=1), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "log.jsonl").read_text() == before
    meta_train(dataclasses.replace(config, outer_steps=2), tmp_path / "run", resume=True)


def test_resuming_where_there_is_no_run_or_a_broken_one_says_so(tmp_path):
    with pytest.raises(ValueError, match="holds no run to resume"):
        meta_train(MICRO, tmp_path / "none", resume=True)
    trainer = MetaTrainer(MICRO, _made(tmp_path / "run"), resume=False)
    trainer.log.close()
    for checkpoint in (tmp_path / "run" / "state").iterdir():
        (checkpoint / "main.pt").write_bytes(b"broken")
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(ValueError, match="none of the checkpoints"),
    ):
        meta_train(MICRO, tmp_path / "run", resume=True)


def test_the_last_two_checkpoints_are_kept_and_the_older_serves_where_the_newer_is_broken(tmp_path):
    config = dataclasses.replace(MICRO, checkpoint_seconds=1e-9)
    trainer = MetaTrainer(config, _made(tmp_path / "run"), resume=False)
    for _ in range(4):
        trainer.advance()
    trainer.log.close()
    states = tmp_path / "run" / "state"
    assert sorted(path.name for path in states.iterdir()) == ["000000003", "000000004"]
    (states / "000000004" / "main.pt").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="passed over"):
        resumed = MetaTrainer(config, tmp_path / "run", resume=True)
    resumed.log.close()
    assert resumed.step == 3


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    config = dataclasses.replace(MICRO, checkpoint_seconds=1e-9)
    trainer = MetaTrainer(config, _made(tmp_path / "run"), resume=False)
    trainer.advance()
    trainer.log.close()

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("meta_train.state.atomic_write_bytes", full)
        with pytest.raises(CheckpointFailedError, match=r"No space left.*last good one is of outer step 1"):
            trainer.advance()
    assert [path.name for path in sorted((tmp_path / "run" / "state").iterdir())] == [
        "000000000",
        "000000001",
    ]
    resumed = MetaTrainer(config, tmp_path / "run", resume=True)
    resumed.log.close()
    assert resumed.step == 1


def test_the_log_tells_of_noise_time_scales_and_bytes(tmp_path):
    record = read_log(meta_train(MICRO, tmp_path / "run"))[-1]
    assert record["gradient_noise/quadratic-noisy"] > 0
    assert record["half_life/average 1"] == pytest.approx(6.58, abs=0.1)
    assert record["diverged"] == record["skipped"] == record["bytes_sent"] == 0


def test_weights_of_families_scale_their_part_of_the_gradient(tmp_path):
    config = dataclasses.replace(MICRO, family_weights=(3.0, 1.0))
    assert config.weights == (1.5, 0.5)
    trainer = MetaTrainer(config, _made(tmp_path / "run"), resume=False)
    trainer.log.close()
    gradients = torch.randn(2, trainer.theta.numel(), generator=torch.Generator().manual_seed(0))
    combined, _ = trainer._combine(gradients)
    units = gradients / gradients.norm(dim=1, keepdim=True)
    torch.testing.assert_close(combined, 1.5 * units[0] + 0.5 * units[1])


def test_skipped_gradients_do_not_count_in_the_usual_norm(tmp_path):
    trainer = MetaTrainer(MICRO, _made(tmp_path / "run"), resume=False)
    trainer.log.close()
    trainer.step = trainer.skipped = 10
    gradients = torch.randn(2, trainer.theta.numel(), generator=torch.Generator().manual_seed(0))
    combined, _ = trainer._combine(gradients)
    torch.testing.assert_close(combined, (gradients / gradients.norm(dim=1, keepdim=True)).sum(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": ("digits-vit",)}, "judges optimizers"),
        ({"families": ("digits-mlp-33",)}, "Did you mean"),
        ({"validation": ("digits-vit",)}, "judges optimizers"),
        ({"families": ()}, "at least one"),
        ({"families": ("quadratic",)}, "both trained on and validated on"),
        ({"learning_rate_range": (0.8, 0.2)}, "learning_rate_range is 0.8..0.2"),
        ({"pairs": 0}, "pairs is 0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"truncation": 9}, "horizon is 2..8"),
        ({"cosine_share": 1.5}, "cosine_share is 1.5"),
        ({"unit_pairs": 3}, "pairs is 2; expected a multiple of unit_pairs, 3"),
        ({"estimator": "rloo"}, "estimator is 'rloo'"),
        ({"estimator": "backprop", "shaping": True}, "no differences to rank"),
        ({"family_weights": (1.0,)}, "1 family_weights for 2 families"),
        ({"family_weights": (1.0, -1.0)}, "finite numbers above 0"),
        ({"families": ("quadratic-noisy", "quadratic-noisy")}, "families is .* expected each once"),
        (
            {"validation": ("quadratic", "quadratic")},
            "validation is .* expected each once",
        ),
        ({"expert": "flt-base"}, "expert_steps is 0"),
        ({"horizon_growth": 2.0}, "horizon_growth is 2.0"),
        ({"keep": "first"}, "keep is 'first'"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MICRO, **change)


def test_a_run_begins_from_a_learned_optimizer(tmp_path):
    first = load_checkpoint("flt-base")
    rule = dataclasses.replace(first.config, vectors="learned")  # there is nothing else in what is trained on
    config = dataclasses.replace(MICRO, start="flt-base", rule=rule)
    trainer = MetaTrainer(config, _made(tmp_path / "on"), resume=False)
    adam = MetaTrainer(MICRO, _made(tmp_path / "adam"), resume=False)
    begun = unflatten(trainer.theta.detach().clone(), trainer.like)
    assert all(torch.equal(begun[name], tensor) for name, tensor in first.meta.items())
    assert trainer.validator.adam == adam.validator.adam  # what it is measured against stays Adam
    trainer.advance()
    assert not torch.equal(trainer.theta, flatten(begun))


@pytest.mark.parametrize(
    ("start", "message"),
    [("flt-rastrigin", "start is 'flt-rastrigin', of another"), ("flt-bas", "did you mean 'flt-base'")],
)
def test_a_start_of_another_architecture_is_refused(tmp_path, start, message):
    with pytest.raises(ValueError, match=message):
        MetaTrainer(dataclasses.replace(MICRO, start=start), _made(tmp_path / "run"), resume=False)


@pytest.mark.parametrize(("preset", "shipped"), [("base", "flt-base"), ("base-small", "flt-small")])
def test_what_ships_is_of_the_rule_that_its_preset_meta_trains(preset, shipped):
    assert load_learned(shipped).config == PRESETS[preset].rule


def test_presets_round_trip_through_json():
    for config in PRESETS.values():
        assert json.loads(json.dumps(config.as_json())) == config.as_json()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
