import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learned_opt import UpdateRule, load_checkpoint, save_checkpoint
from learned_opt.memory import MEMORIES
from meta_train.cli import main
from meta_train.commands import shootout as command
from meta_train.loop import Interrupted, meta_train
from meta_train.shootout import CONTENDERS, LABELS, SHOOTOUTS, MetaRun, contender, plan, sizes
from meta_train.shootout_report import figure_text
from meta_train.shootout_scores import mean_curve, memory_scores, rule_speedup
from tasks import JUDGES
from tasks.benchmark import Entry, Results
from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.figures.summary import summarise
from tasks.benchmark.running.cell import Cell, CellResult
from tasks.benchmark.settings import Settings, TaskInfo

STEPS = 100
SHORT = ["--tasks", "rastrigin-2", "--seeds", "2", "--steps", "20", "--lrs", "0.01,0.1", "--workers", "1"]


def build(params, *, lr):
    """No optimizer."""
    raise NotImplementedError


def results(speeds: dict[str, float], tasks=("one", "two"), seeds=3, noise=0.0) -> Results:
    """Losses that fall in a straight line to 0 at step ``80 / speed``, where they stay."""
    entries = tuple(Entry(name, build, 0.1, (0.1,), identity=name) for name in speeds)
    settings = Settings(
        entries=entries,
        sweeps=dict.fromkeys(speeds, (0.1,)),
        with_defaults=False,
        schedules=("constant",),
        seeds=tuple(range(seeds)),
        references=("adam",),
        device="cpu",
        suite="",
    )
    infos = {task: TaskInfo(task, task, "loss", STEPS, higher_is_better=False) for task in tasks}
    cells = []
    for task in tasks:
        for name, speed in speeds.items():
            for seed in settings.seeds:
                rate = speed * (1 + noise * seed)
                curve = (1 + np.maximum(10 - rate * np.arange(STEPS) / 8, 0)).astype(np.float32)
                cells.append(
                    CellResult(
                        Cell(task, name, "constant", 0.1, seed, STEPS),
                        "finished",
                        curve=curve,
                        final_loss=float(curve[-STEPS // 10 :].mean()),
                        mean_loss=float(curve.mean()),
                        validation={"loss": float(curve[-1])},
                    )
                )
    return Results(settings, infos, tuple(cells), {}, *summarise(settings, infos, cells, {}))


def test_contenders_have_equal_floats_and_the_same_head() -> None:
    assert {type(memory) for memory in CONTENDERS.values()} == set(MEMORIES.values())
    assert CONTENDERS.keys() == LABELS.keys()
    floats = {memory: sizes(memory)[0] for memory in CONTENDERS}
    assert max(floats.values()) <= 1.1 * min(floats.values())
    heads = [
        {
            name: tensor
            for name, tensor in UpdateRule(contender(SHOOTOUTS["tiny"], memory, 3).rule)
            .init_meta(seed=3)
            .items()
            if name.startswith("head.")
        }
        for memory in CONTENDERS
    ]
    for head in heads[1:]:
        assert head.keys() == heads[0].keys()
        assert all((head[name] == heads[0][name]).all() for name in head)


@pytest.mark.parametrize("preset", SHOOTOUTS)
def test_presets_leave_the_judges_alone(preset: str) -> None:
    config = SHOOTOUTS[preset]
    assert not JUDGES & {*config.families, *config.validation}


def test_runs_differ_in_memory_and_seed_alone(tmp_path: Path) -> None:
    runs = plan("tiny", ["flt", "lstm"], range(2), tmp_path)
    assert [run.name for run in runs] == ["flt-0", "lstm-0", "flt-1", "lstm-1"]
    for run in runs:
        memory = replace(run.config.rule, memory=SHOOTOUTS["tiny"].rule.memory)
        assert replace(run.config, rule=memory, seed=0) == SHOOTOUTS["tiny"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tinny", ["flt"], [0]), r"Unknown shoot-out 'tinny'. Did you mean 'tiny'\?"),
        (("tiny", ["flt", "s4"], [0]), r"Unknown memory 's4'. Did you mean 's4d'\?"),
        (("tiny", ["flt", "flt"], [0]), "memories are flt, flt; expected at least one, each once"),
        (("tiny", [], [0]), "memories are ; expected at least one"),
        (("tiny", ["flt"], []), "meta-seeds are ; expected at least one"),
    ],
)
def test_plans_that_are_refused(arguments, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*arguments, tmp_path)


def test_a_run_is_finished_when_its_folder_says_so(tmp_path: Path) -> None:
    (run,) = plan("micro", ["moments"], [0], tmp_path)
    assert not run.finished()
    half = replace(run.config, outer_steps=1, validation_every=1)
    meta_train(half, run.folder)
    with pytest.raises(ValueError, match=r"moments-0 is of another shoot-out: outer_steps, validation_every"):
        run.finished()
    whole = MetaRun(run.memory, run.seed, half, run.folder)
    assert whole.finished()
    assert MetaRun(run.memory, run.seed, replace(half, compiled=True), run.folder).finished()
    with pytest.raises(ValueError, match="of another shoot-out: rule"):
        MetaRun("lstm", 0, contender(half, "lstm", 0), run.folder).finished()
    checkpoint = load_checkpoint(run.folder)
    training = dict(checkpoint.facts["meta_training"])
    del training["horizon_growth"], training["rule"]["epsilon"]  # as saved before there were these settings
    facts = {**checkpoint.facts, "meta_training": training}
    save_checkpoint(run.folder, checkpoint.config, checkpoint.meta, facts)
    assert whole.finished()
    save_checkpoint(run.folder, checkpoint.config, checkpoint.meta, {})
    with pytest.raises(ValueError, match="does not say how it was meta-trained"):
        whole.finished()


def test_speedups_are_means_over_meta_seeds_within_their_extremes() -> None:
    speeds = {"adam": 1.0, "a-0": 2.0, "a-1": 4.0, "b-0": 1.0, "b-1": 1.0}
    found = results(speeds)
    a, b = memory_scores(found, {"a": ["a-0", "a-1"], "b": ["b-0", "b-1"]}, "adam")
    one, two = (rule_speedup(found, "one", name, "adam") for name in ("a-0", "a-1"))
    assert 1.5 < one < two
    assert a.speedup is not None
    assert a.speedup.value == pytest.approx((one * two) ** 0.5)
    assert (a.speedup.low, a.speedup.high) == pytest.approx((one, two))
    assert b.speedup == Interval(1.0, 1.0, 1.0)
    assert a.by_task["one"] == a.by_task["two"]
    assert a.final_loss["one"] is not None
    assert a.final_loss["one"].value == pytest.approx(1.0)


def test_intervals_widen_with_the_spread_over_seeds_too() -> None:
    rules = {"a": ["a-0"]}
    (still,) = memory_scores(results({"adam": 1.0, "a-0": 2.0}), rules, "adam")
    (noisy,) = memory_scores(results({"adam": 0.4, "a-0": 0.6}, noise=0.1), rules, "adam")
    assert still.speedup is not None
    assert noisy.final_loss["one"] is not None
    assert still.speedup.low == still.speedup.high == still.speedup.value
    loss = noisy.final_loss["one"]
    assert loss.low is not None
    assert loss.high is not None
    assert loss.low < loss.value < loss.high


def test_a_single_run_has_no_interval() -> None:
    (score,) = memory_scores(results({"adam": 1.0, "a-0": 2.0}, seeds=1), {"a": ["a-0"]}, "adam")
    for figure in (score.speedup, *score.by_task.values(), *score.final_loss.values()):
        assert figure is not None
        assert (figure.low, figure.high) == (None, None)
    assert score.speedup is not None
    assert "(" not in figure_text(score.speedup, "x")


def test_what_never_falls_has_no_speedup() -> None:
    (score,) = memory_scores(results({"adam": 1.0, "a-0": 0.0}), {"a": ["a-0"]}, "adam")
    assert score.speedup is None
    assert score.by_task == {"one": None, "two": None}


def test_curves_lie_within_their_bands() -> None:
    found = results({"adam": 1.0, "a-0": 1.5, "a-1": 2.5}, noise=0.2)
    curve = mean_curve(found, "one", ["a-0", "a-1"])
    assert curve is not None
    assert curve.mean.shape == (STEPS,)
    slack = 1e-9
    assert (curve.low <= curve.mean + slack).all()
    assert (curve.mean <= curve.high + slack).all()
    assert (curve.low < curve.high - 0.1).any()


def test_figures_are_told_with_their_intervals() -> None:
    assert figure_text(Interval(1.234, 1.1, 1.3), "x") == "1.23x (1.1 to 1.3)"
    assert figure_text(Interval(2.0)) == "2"
    assert figure_text(None) == "-"


@pytest.mark.slow
def test_one_command_does_it_all_and_only_once(tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    arguments = [
        "shootout",
        "micro",
        "--memories",
        "flt,moments",
        "--meta-seeds",
        "1",
        *SHORT,
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    document = json.loads((out / "results.json").read_text())
    assert document["format"] == "learned-opt-shootout"
    assert [memory["memory"] for memory in document["memories"]] == ["flt", "moments"]
    assert {memory["floats_per_parameter"] for memory in document["memories"]} == {8}
    assert [(run["memory"], run["meta_seed"]) for run in document["runs"]] == [("flt", 0), ("moments", 0)]
    assert all(run["outer_steps"] == 2 for run in document["runs"])
    page, summary = (out / "index.html").read_text(), (out / "summary.md").read_text()
    assert page.count("<figure>") == 1
    assert "FLT, exact spectrum (V2)" in page
    assert summary.count("\n| ") == 3
    assert "Adam" in summary

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished run is not repeated")

    monkeypatch.setattr(command, "run_with_display", never)
    cells = (out / "benchmark" / "cells.jsonl").read_text()
    assert main(arguments) == 0
    assert (out / "benchmark" / "cells.jsonl").read_text() == cells


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupted(_: object, folder: Path, **__: object) -> None:
        raise Interrupted(folder)

    monkeypatch.setattr(command, "run_with_display", interrupted)
    arguments = ["shootout", "micro", "--memories", "flt", *SHORT, "--out", str(tmp_path)]
    assert main(arguments) == 130
    assert "To go on: learned-opt shootout micro --memories flt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tinny"], "Unknown shoot-out 'tinny'"),
        (["micro", "--memories", "flt,ltsm"], "Unknown memory 'ltsm'. Did you mean 'lstm'?"),
        (["micro", "--tasks", "rastrigin-1O"], "Unknown task 'rastrigin-1O'"),
        (["micro", "--meta-seeds", "0"], "meta_seeds is 0; expected at least 1"),
        (["micro", "--lrs", "0.1,fast"], "lrs is 0.1,fast; expected numbers"),
        (["micro", "--lrs", ","], "expected at least one learning rate"),
        (["micro", "--lrs=-1"], "finite and above 0, got -1.0"),
        (["micro", "--schedules", "nonsense"], "Unknown schedule 'nonsense'"),
        (["micro", "--tasks", "rastrigin-2,rastrigin-2"], "with distinct names"),
        (["micro", "--tasks", ","], "expected at least one of tasks"),
        (["micro", "--tasks", "rastrigin-2,rosenbrock-2"], "meta-trains or validates on rosenbrock-2;"),
        (["micro", "--tasks", "quadratic-noisy"], "meta-trains or validates on quadratic-noisy;"),
        (["micro", "--seed", "-5"], "seed is -5; expected an integer from 0"),
        (["micro", "--seed", "99999999999999999999"], "seed is 99999999999999999999; expected"),
    ],
)
def test_the_command_refuses_before_anything_runs(arguments, message: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["shootout", *arguments, "--out", str(out)]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not out.exists()
