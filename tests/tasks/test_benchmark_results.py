import gzip
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tasks.benchmark.figures.summary import Summary
from tasks.benchmark.results import FORMAT, VERSION
from tasks.benchmark.saved import load_results
from tests.tasks.simulated import noisy_curve, simulated


@pytest.fixture(scope="module")
def results():
    def curve(cell):
        return None if cell.optimizer == "wild" and cell.task == "one" else noisy_curve(cell)

    return simulated(optimizers=("adam", "adamw", "wild", "ours"), curve=curve, steps=450, suite="smoke")


@pytest.fixture
def saved(tmp_path, results):
    (tmp_path / "results.json").write_text(results.to_json())
    return tmp_path


def test_runs_and_summaries_are_found_by_their_setting(results):
    for result in results.cells:
        cell = result.cell
        found = results.runs(cell.task, cell.optimizer, cell.schedule, cell.learning_rate)
        assert [run.cell.seed for run in found] == [0, 1, 2]
        assert found[cell.seed] is result
    assert results.runs("one", "ours", "constant", 0.5) == []
    for one in results.summaries:
        assert results.summary(one.task, one.optimizer, one.choice) is one
    assert results.summary("three", "ours") is None


def test_the_headline_holds_its_interval_and_the_settings(results):
    found = json.loads(results.to_json())["headline"]
    assert (found["optimizer"], found["choice"], found["suite"]) == ("ours", "tuned", "smoke")
    assert found["low"] <= found["speedup_iqm"] <= found["high"]
    assert (found["tasks"], found["steps"], found["seeds"]) == (["one", "two"], [450, 450], [0, 1, 2])
    assert (found["references"], found["schedules"]) == (["adam", "adamw"], ["constant", "cosine"])
    assert found["select"] == "train"
    assert found["learning_rates"]["ours"] == [1e-3, 1e-2]
    assert 0 <= found["improvement"]["low"] <= found["improvement"]["value"] <= 1


def test_curves_are_thinned_and_kept_for_chosen_settings_alone(results):
    document = json.loads(results.to_json())
    chosen = {
        (one["task"], one["optimizer"], one["schedule"], one["learning_rate"]) for one in document["summary"]
    }
    for cell in document["cells"]:
        setting = (cell["task"], cell["optimizer"], cell["schedule"], cell["learning_rate"])
        assert (cell["curve"] is not None) == (setting in chosen)
        if cell["curve"]:
            assert len(cell["curve"]["step"]) == len(cell["curve"]["loss"]) == 200
            assert cell["curve"]["step"][-1] == 450
    assert len(document["cells"]) == len(results.cells)


def test_what_is_written_is_read_back(results, saved):
    for path in (saved, saved / "results.json", str(saved)):
        found = load_results(path)
        assert found.name == str(saved)
        assert found.tasks == results.tasks
        assert found.headlines == results.headlines
        assert found.profiles == results.profiles
        assert tuple(found.summaries.values()) == results.summaries
        assert found.timings["two", "ours"]["training_seconds"] == 4e-3
        assert len(found.cells) == len(results.cells)
        assert found.optimizers["ours"]["kind"] == "learned"


def test_fields_may_be_added_within_a_version(saved, results):
    document = json.loads((saved / "results.json").read_text())
    document["new"] = document["summary"][0]["new"] = document["headlines"][0]["new"] = 1
    (saved / "results.json").write_text(json.dumps(document))
    assert tuple(load_results(saved).summaries.values()) == results.summaries


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_tasks_that_do_not_say_whether_more_is_better_are_read(tmp_path, metric):
    results = simulated(metric=metric)
    document = json.loads(results.to_json())
    for task in document["settings"]["tasks"]:
        assert task.pop("higher_is_better") == (metric == "accuracy")
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert load_results(tmp_path).tasks == results.tasks


def drop(name):
    return lambda document: document.pop(name)


def change(*path, to):
    def changed(document):
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = to

    return changed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("format", to="other"), f"expected an object of format '{FORMAT}'"),
        (change("version", to=1), f"is of version 1, expected {VERSION}"),
        (change("version", to=None), f"is of version None, expected {VERSION}"),
        *[
            (drop(name), f"is damaged: KeyError: '{name}'")
            for name in ("settings", "summary", "cells", "profiles")
        ],
        (lambda document: document["settings"].pop("suite"), "is damaged: KeyError: 'suite'"),
        (lambda document: document["summary"][3].pop("speedup"), "is damaged: KeyError: 'speedup'"),
        (change("summary", 0, "final_loss", to="low"), "is damaged: TypeError"),
        (change("summary", 0, "final_loss", "value", to="low"), "is damaged: ValueError.*'low'"),
        (
            change("summary", 0, "optimizer", to="nobody"),
            "a summary of nobody, which the settings do not know",
        ),
        (change("profiles", 0, "share", to=None), "is damaged: TypeError"),
        (change("headlines", to={"a": 1}), "is damaged"),
    ],
)
def test_other_files_are_refused(saved, damage, message):
    document = json.loads((saved / "results.json").read_text())
    damage(document)
    (saved / "results.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=f"{re.escape(str(saved))}.*{message}") as caught:
        load_results(saved)
    assert "\n" not in str(caught.value)


def test_packed_results_are_read_like_plain_ones(saved, tmp_path):
    packed = tmp_path / "packed" / "results.json.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((saved / "results.json").read_bytes()))
    assert (
        load_results(packed.parent).summaries
        == load_results(packed).summaries
        == load_results(saved).summaries
    )
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged"):
        load_results(packed)


@pytest.mark.parametrize("text", ["", "{", "not json", "[1]", "3", '"text"', b"\xff\xfe{}"])
def test_what_is_no_document_is_refused(tmp_path, text):
    file = tmp_path / "results.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"results\.json (is no JSON file|holds no benchmark's results)"):
        load_results(file)
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path / "elsewhere.json")


def test_every_field_is_documented(results):
    text = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text()
    table = text[text.index("### `results.json`") :]
    document = json.loads(results.to_json())
    names = {*document, *document["settings"], *document["environment"], *document["headline"]}
    names |= {field.name for field in fields(Summary)} | {*document["cells"][0], *document["timings"][0]}
    names |= {
        *document["profiles"][0],
        *document["settings"]["tasks"][0],
        *document["settings"]["optimizers"][0],
    }
    assert [name for name in sorted(names) if f"`{name}`" not in table] == []
