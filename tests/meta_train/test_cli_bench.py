import json

import pytest

from learned_opt import RuleConfig, UpdateRule, save_checkpoint
from meta_train.cli import main
from meta_train.commands import parse
from meta_train.commands.bench import BenchCommand, arguments, known_tasks
from meta_train.commands.quickstart import QuickstartCommand
from tasks.benchmark import SUITES


def planned(*options):
    return arguments(parse(BenchCommand, "bench", options))


@pytest.mark.parametrize("name", ["smoke", "quick", "core", "long"])
def test_a_suite_runs_its_baselines_and_ours_over_its_budget(name):
    out, settings = planned(name)
    suite = SUITES[name]
    assert out.name == f"bench-{name}"
    assert settings["suite"] == name
    assert [entry.name for entry in settings["entries"]] == [*suite.baselines, "flt"]
    assert settings["tasks"] == list(settings["steps"]) == list(suite.steps)
    assert list(settings["seeds"]) == list(range(suite.seeds))
    assert len({len(entry.learning_rates) for entry in settings["entries"]}) == 1


def test_optimizers_of_ones_own_join_the_references():
    _, settings = planned("core", "--optimizers", "lion,adamw")
    assert [entry.name for entry in settings["entries"]] == ["adam", "adamw", "lion"]
    assert settings["suite"] == "core"


def test_references_go_by_the_names_that_their_entries_have(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef sgd(params, *, lr):\n    return torch.optim.SGD(params, lr=lr)\n"
    )
    _, settings = planned("--references", "mine:sgd,timm:lion,mine:sgd", "--optimizers", "adam,mine:sgd")
    names = [entry.name for entry in settings["entries"]]
    assert len(names) == len(set(names)) == 3
    assert settings["references"] == tuple(names[:2])


@pytest.mark.parametrize(
    "options",
    [
        ("--seeds", "2"),
        ("--steps", "5"),
        ("--lrs", "0.1"),
        ("--tasks", "quadratic"),
        ("--seed", "3"),
        ("--schedules", "constant"),
        ("--references", "adam"),
        ("--select", "validation"),
    ],
    ids=lambda options: options[0],
)
def test_another_budget_is_no_longer_the_suite(options):
    assert planned("quick", *options)[1]["suite"] == ""


@pytest.mark.parametrize(
    ("suite", "options"),
    [
        ("quick", ["--seeds", "5", "--seed", "0"]),
        ("quick", ["--references", "adamw,adam", "--select", "train"]),
        ("quick", ["--schedules", "warmup-cosine,constant", "--weight-decay", "0.1"]),
        ("long", ["--steps", "25000", "--tasks", ",".join(SUITES["long"].steps)]),
    ],
)
def test_the_suites_own_values_change_nothing(suite, options):
    assert planned(suite, *options)[1]["suite"] == suite


def test_workers_are_as_many_as_the_processors_that_may_be_used(monkeypatch):
    for usable, workers in ((3, 3), (64, 8)):
        monkeypatch.setattr("meta_train.local_group.usable_processors", lambda count=usable: count)
        assert planned()[1]["workers"] == workers
        assert parse(QuickstartCommand, "quickstart", []).workers == workers


def test_tasks_of_the_meta_training_are_named(tmp_path):
    facts = {"meta_training": {"families": ["quadratic"], "validation": ["digits-conv"]}}
    odd = {"meta_training": {"families": None, "validation": [["quadratic"], {"a": 1}, 3]}}
    for name, known in (
        ("seen", facts),
        ("unknown", {}),
        ("lost", {"meta_training": "lost"}),
        ("odd", odd),
    ):
        save_checkpoint(tmp_path / name, RuleConfig(), UpdateRule(RuleConfig()).init_meta(), known)
    folders = ",".join(str(path) for path in tmp_path.iterdir())
    _, settings = planned("--optimizers", f"{folders},adam", "--tasks", "digits-conv,rastrigin-2,quadratic")
    lines = known_tasks(settings["entries"], settings["tasks"])
    assert lines == ["seen was meta-trained or validated on digits-conv, quadratic."]


def test_steps_of_a_suites_other_tasks_are_left_out():
    assert planned("quick", "--tasks", "rastrigin-10,quadratic")[1]["steps"] == {"rastrigin-10": 500}
    assert planned("imagenet", "--device", "cpu", "--tasks", "quadratic")[1]["steps"] == {}


def test_without_a_suite_tasks_run_at_their_own_length():
    _, settings = planned()
    assert settings["tasks"] == ["digits-vit", "rastrigin-10"]
    assert settings["steps"] == {}
    assert settings["references"] == ("adam",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cor"], "Did you mean 'core'"),
        (["core", "--data", "here"], "data is 'here'; expected none"),
        (["--data", "here"], "data is 'here'; expected none"),
        (["imagenet", "--device", "cpu", "--data", "here", "--tasks", "quadratic"], "data is 'here'"),
        (["--seed", "-5"], "seed is -5; expected an integer from 0"),
        (["imagenet", "--device", "cpu"], "needs a folder of images"),
        (["smoke", "--device", "tpu"], "device is 'tpu'"),
        (["smoke", "--seeds", "0"], "seeds is 0"),
        (["smoke", "--steps", "0"], "steps must be at least 1"),
        (["smoke", "--lrs", "fast"], "lrs is fast"),
        (["smoke", "--weight-decay", "-1"], "weight_decay is -1"),
        (["smoke", "--select", "luck"], "luck"),
        (["smoke", "--tasks", "digits-vti"], "Did you mean 'digits-vit'"),
        (["smoke", "--optimizers", "adma"], "Did you mean 'adam"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_named_before_anything_runs(options, message, tmp_path, capsys):
    assert main(["bench", *options, "--out", str(tmp_path / "out")]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_suite_runs_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--optimizers", "flt", "--steps", "4", "--seeds", "1", "--workers", "0", "--out", str(out)]
    assert main(["bench", "smoke", *options]) == 0
    results = json.loads((out / "results.json").read_text())
    assert {cell["task"] for cell in results["cells"]} == set(SUITES["smoke"].steps)
    assert {cell["optimizer"] for cell in results["cells"]} == {"adam", "adamw", "flt"}
    assert "Page:" in capsys.readouterr().out
