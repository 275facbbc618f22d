"""Runs under torchrun against runs of one process. AdamW in the same cases shows what rounding alone does."""

import pytest

from tests.distributed.catalogue import CASES

ROUNDING = 5e-5
"""Largest difference, in units of a tensor's largest move, that reductions in another order may make."""

LIMITS = {"cut_in_bfloat16": 0.01}
"""Where the figure is what share of the elements were rounded otherwise."""

pytestmark = pytest.mark.slow

runs = [(name, ranks) for name, entry in CASES.items() for ranks in entry.ranks]


@pytest.mark.parametrize(("name", "ranks"), runs)
def test_it_equals_one_process(lines, name, ranks) -> None:
    found = lines(ranks)
    for optimizer in CASES[name].optimizers:
        line = found.get((name, optimizer), found["errors", ""])
        assert "error" not in line, f"{optimizer}: {line['error']}"
        for key, figure in line["figures"].items():
            print(f"{name}, {ranks} processes, {key}, {optimizer}: {figure:.1e}")
            limit = 0 if isinstance(figure, int) else LIMITS.get(name, ROUNDING)
            assert figure <= limit or optimizer != "FLT", f"{key}: {figure}; expected at most {limit}"


def test_adamw_in_the_same_cases_shows_that_they_are_fair(lines) -> None:
    figures = [
        (name, key, figure)
        for ranks in (1, 2, 4)
        for (name, optimizer), line in lines(ranks).items()
        if optimizer == "AdamW"
        for key, figure in line["figures"].items()
    ]
    assert len(figures) > 50
    assert [entry for entry in figures if isinstance(entry[2], float) and entry[2] > ROUNDING] == []


def test_as_many_processes_as_saved_continue_to_the_same_bits(lines) -> None:
    assert set(lines(2)["checkpoint_loaded", "FLT"]["figures"].values()) == {0}
