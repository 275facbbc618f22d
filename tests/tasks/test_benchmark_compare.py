import json

import pytest
from rich.console import Console

from meta_train.cli import main
from tasks.benchmark.compare import changes, compare
from tasks.benchmark.saved import load_results
from tests.tasks.simulated import noisy_curve, simulated


def write(folder, results):
    folder.mkdir()
    (folder / "results.json").write_text(results.to_json())
    return folder


def shifted(cell):
    return noisy_curve(cell) - (0.1 if cell.optimizer == "ours" else 0)


@pytest.fixture
def first(tmp_path):
    return write(tmp_path / "first", simulated())


def rows(first, second):
    table = compare(load_results(first), load_results(second))
    return [
        [str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)
    ]


def test_figures_stand_side_by_side(tmp_path, first):
    before, after = simulated(), simulated(optimizers=("adam", "adamw", "ours", "new"), curve=shifted)
    found = rows(first, write(tmp_path / "second", after))
    ours = next(row for row in found if row[:2] == ["ours", "speed-up"])
    for text, results in zip(ours[2:], (before, after), strict=True):
        figure = results.headline.speedup
        assert text == f"{figure.value:.2f}× [{figure.low:.2f}–{figure.high:.2f}]"
    new = [row for row in found if row[0] == "new"]
    assert len(new) == 3 + 2 * 3
    assert all(row[2] == "–" != row[3] for row in new)
    titles = [row[0] for row in found if len(row) == 1 or not any(row[1:])]
    assert titles == ["all tasks", "one", "two"]
    assert {row[1] for row in new} >= {"final loss", "validation accuracy"}
    losses = [row for row in found if row[:2] == ["ours", "final loss"]]
    assert len(losses) == 2
    assert all(
        float(row[3].split()[0]) == pytest.approx(float(row[2].split()[0]) - 0.1, abs=2e-3) for row in losses
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "core"}, "suites differ: none and core"),
        ({"tasks": ("one", "three")}, "tasks differ: one, two and one, three"),
        ({"steps": 60}, "steps differ: one 40, two 40 and one 60, two 60"),
        ({"seeds": (0, 1)}, "seeds differ: 0, 1, 2 and 0, 1"),
        ({"metric": "loss"}, "metrics differ: one accuracy"),
        ({"select": "validation"}, "selections differ: train and validation"),
        ({"references": ("adam",)}, "references differ: adam, adamw and adam"),
        ({"rates": (1e-3, 1e-1)}, "learning rates of the references differ: adam 0.001, 0.01"),
        ({"suite": "core", "seeds": (4,)}, "suites differ.*; seeds differ"),
    ],
)
def test_results_of_other_settings_are_refused_by_name(tmp_path, first, options, message):
    second = write(tmp_path / "second", simulated(**options))
    with pytest.raises(ValueError, match=f"first and .*second cannot be compared: .*{message}") as caught:
        rows(first, second)
    assert "\n" not in str(caught.value)


def test_what_may_explain_a_difference_is_said(tmp_path, first):
    second = write(tmp_path / "second", simulated())
    assert changes(load_results(first), load_results(second)) == []
    document = json.loads((second / "results.json").read_text())
    document["environment"]["torch"] = "0.1"
    document["settings"]["optimizers"][2]["fingerprint"] = "other"
    (second / "results.json").write_text(json.dumps(document))
    lines = changes(load_results(first), load_results(second))
    assert [line.split(" ")[0] for line in lines] == ["ours", "torch:"]


def test_the_command_prints_them_or_says_why_not(tmp_path, first, capsys, monkeypatch):
    second = write(tmp_path / "second", simulated(curve=shifted))
    monkeypatch.setattr("meta_train.commands.compare.console", Console(width=200))
    assert main(["compare", str(first), str(second / "results.json")]) == 0
    shown = capsys.readouterr().out
    assert "by the clock" in shown
    assert "P(better)" in shown
    assert main(["compare", str(first), str(write(tmp_path / "third", simulated(seeds=(7,))))]) == 1
    assert "seeds differ: 0, 1, 2 and 7" in capsys.readouterr().err
    assert main(["compare", str(first), str(tmp_path / "nothing")]) == 1
    assert "nothing is not there; expected the folder of a benchmark" in capsys.readouterr().err
    assert main(["compare", str(first), str(tmp_path)]) == 1
    assert f"{tmp_path} holds no results.json" in capsys.readouterr().err
    assert main(["compare", str(first)]) == 2


def test_names_with_markup_are_shown_as_they_are(tmp_path, first, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first.rename("one[red]")
    document = json.loads((tmp_path / "one[red]" / "results.json").read_text())
    document["environment"]["cpu"] = "[/red]"
    second = write(tmp_path / "two", simulated())
    (second / "results.json").write_text(json.dumps(document))
    console = Console(width=200)
    with console.capture() as shown:
        console.print(compare(load_results("one[red]"), load_results("two")))
    assert "one[red]" in shown.get()
    assert main(["compare", "one[red]", "two"]) == 0
