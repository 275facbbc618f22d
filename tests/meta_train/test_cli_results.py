import dataclasses
import json
from pathlib import Path

import pytest

from learned_opt import MomentsConfig, RuleConfig, UpdateRule, save_checkpoint
from meta_train.cli import main
from meta_train.commands import quickstart
from meta_train.presets import PRESETS


def save(folder: Path, config: RuleConfig | None = None, facts: dict[str, object] | None = None) -> Path:
    config = config or RuleConfig()
    save_checkpoint(folder, config, UpdateRule(config).init_meta(), facts)
    return folder


def test_bench_scores_names_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [save(tmp_path / place / "mine") for place in ("one", "two")]
    optimizers = ",".join(["adam", "flt", *map(str, folders)])
    out = tmp_path / "out"
    options = ["--tasks", "quadratic", "--steps", "4", "--lrs", "1e-2,3e-2", "--seeds", "2", "--seed", "5"]
    arguments = ["bench", "--optimizers", optimizers, *options, "--workers", "0", "--out", str(out)]
    assert main(arguments) == 0
    assert "FLT" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert {cell["optimizer"] for cell in results["cells"]} == {"adam", "flt", "mine", "mine-2"}
    assert {cell["seed"] for cell in results["cells"]} == {5, 6}
    assert len(results["cells"]) == 4 * 2 * 2 * 2
    finals = {
        name: [cell["final_loss"] for cell in results["cells"] if cell["optimizer"] == name]
        for name in ("adam", "mine", "mine-2")
    }
    assert finals["mine"] == finals["mine-2"] == pytest.approx(finals["adam"], rel=1e-3)
    assert (out / "index.html").exists()


def test_inspect_tells_what_was_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "meta_training": PRESETS["tiny"].as_json(),
        "outer_steps": 150,
        "inner_steps": 48_000,
        "seconds": 61.0,
        "validation_score": -0.5,
    }
    folder = save(tmp_path / "mine", facts=facts)
    assert main(["inspect", str(folder), "--out", str(tmp_path / "plots")]) == 0
    shown = capsys.readouterr().out
    for expected in ("quadratic-noisy", "48,000 inner steps, 1:01", "-0.500", "8 floats", "692.8"):
        assert expected in shown
    assert (tmp_path / "plots" / "masks.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"families": None, "validation": [1, "[/b]"], "outer_steps": None, "seed": "[/]"}, "1, [/b]"),
        ({"families": "quadratic", "outer_steps": "many"}, "- of - outer steps"),
    ],
)
def test_inspect_takes_odd_facts_and_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: dict[str, object], expected: str
) -> None:
    odd = {"meta_training": facts, "outer_steps": float("nan"), "inner_steps": "few", "seconds": None}
    folder = save(tmp_path / r"mine[red] $\x$", facts=odd)
    assert main(["inspect", str(folder), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert r"mine[red] $\x$" in shown
    assert expected in shown


def test_inspect_takes_the_memory_that_learns_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "mine", RuleConfig(memory=MomentsConfig()))
    assert main(["inspect", str(folder), "--out", str(tmp_path)]) == 0
    assert "nothing was recorded" in capsys.readouterr().out


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "TASKS", ("quadratic", "rastrigin-2"))
    monkeypatch.setattr(quickstart, "RATES", (1e-2, 1e-1))
    tiny = dataclasses.replace(
        PRESETS["tiny"],
        families=("quadratic",),
        pairs=2,
        truncation=5,
        horizon=(10, 20),
        validation=("digits-mlp-norm",),
        validation_steps=5,
    )
    monkeypatch.setitem(PRESETS, "tiny", tiny)


@pytest.mark.usefixtures("_small")
def test_quickstart_goes_round_the_whole_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = save(tmp_path / "mine"), tmp_path / "out"
    options = ["--steps", "5", "--seeds", "1", "--outer-steps", "2", "--workers", "0"]
    arguments = ["quickstart", "--optimizer", str(folder), *options, "--out", str(out)]
    for _ in range(2):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert "FLT" in shown
        assert str(out / "index.html") in shown
        assert f"learned-opt inspect {out / 'new-optimizer'}" in shown
    page = (out / "index.html").read_text()
    assert "What FLT remembers" in page
    assert "What the new optimizer remembers" in page
    assert "http://" not in page
    results = json.loads((out / "benchmark" / "results.json").read_text())
    assert {cell["optimizer"] for cell in results["cells"]} == {"adam", "flt", "new"}


@pytest.mark.usefixtures("_small")
def test_quickstart_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise quickstart.Interrupted(tmp_path)

    monkeypatch.setattr(quickstart, "run_with_display", interrupt)
    options = ["--steps", "5", "--seeds", "1", "--workers", "0", "--out", str(tmp_path)]
    assert main(["quickstart", *options]) == 130
    assert f"To go on: learned-opt quickstart {' '.join(options)}" in capsys.readouterr().err
