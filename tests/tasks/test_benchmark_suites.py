import pytest

from meta_train.presets import PRESETS
from tasks import JUDGES, UnknownNameError, require_trainable
from tasks.benchmark import SUITES, get_suite
from tasks.benchmark.contestants.baselines import get_entry
from tasks.benchmark.schedules import SCHEDULES
from tasks.catalogue import GROUPS
from tests.tasks.folders import write_folder

KINDS = ("functions", "perceptrons", "convolutions", "Vision Transformers", "language models", "autoencoders")
OWN_DATA = [suite for suite in SUITES.values() if suite.folder_tasks is None]


@pytest.mark.parametrize("suite", OWN_DATA, ids=lambda suite: suite.name)
def test_every_task_is_a_judge_that_meta_training_refuses(suite):
    assert set(suite.steps) <= JUDGES
    for name in suite.steps:
        with pytest.raises(ValueError, match="judges optimizers"):
            require_trainable(name)
    assert suite.tasks() == list(suite.steps)


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_every_suite_names_what_exists_and_its_references_take_part(suite):
    assert set(suite.schedules) <= set(SCHEDULES)
    assert set(suite.references) <= set(suite.baselines)
    assert min(suite.steps.values()) >= 1
    entries = [get_entry(name) for name in suite.baselines]
    budgets = {len(suite.rates(entry)) for entry in entries}
    assert len(budgets) == 1, "everyone gets the same budget"
    assert all(set(suite.rates(entry)) <= set(entry.learning_rates) for entry in entries)


@pytest.mark.parametrize("name", ["quick", "core", "long", "imagenet"])
def test_what_counts_as_a_result_has_the_whole_budget(name):
    suite = get_suite(name)
    assert suite.seeds >= 5
    assert len(suite.rates(get_entry("adam"))) == 14
    assert suite.schedules == ("constant", "warmup-cosine")


def test_core_spans_the_kinds_of_tasks():
    core = get_suite("core")
    assert len(core.steps) >= 10
    assert {"rastrigin-2", "rastrigin-10", "rastrigin-100"} <= set(core.steps)
    for kind in KINDS:
        assert any(name in module.TASKS for module in GROUPS[kind] for name in core.steps), kind


def test_long_goes_far_beyond_what_a_shipped_optimizer_met():
    longest = max(PRESETS["small"].horizon)
    assert min(get_suite("long").steps.values()) >= 25 * longest


def test_a_folder_is_asked_for_and_read(tmp_path):
    suite = get_suite("imagenet")
    with pytest.raises(ValueError, match="needs a folder of images"):
        suite.tasks()
    tasks = suite.tasks(write_folder(tmp_path / "photos"))
    assert [task.name for task in tasks] == list(suite.steps)
    with pytest.raises(ValueError, match="takes no folder"):
        get_suite("core").tasks(tmp_path)


def test_a_misspelt_suite_is_named_with_the_closest():
    with pytest.raises(UnknownNameError, match="Did you mean 'core'"):
        get_suite("cor")
