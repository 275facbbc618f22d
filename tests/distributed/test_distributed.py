"""Runs under torchrun against runs of one process; AdamW in the same cases shows what rounding alone does."""

import pytest

from tests.distributed.catalogue import CASES

ROUNDING = 5e-5
"""Largest difference, in units of a tensor's largest move, that reductions in another order may make."""

LIMITS = {"cut_in_bfloat16": 0.01, "cut_with_state_in_bfloat16": 0.05}
"""Where what is rounded has eight bits."""

pytestmark = pytest.mark.slow

runs = [(name, ranks) for name, entry in CASES.items() for ranks in entry.ranks]


@pytest.mark.parametrize(("name", "ranks"), runs)
def test_it_equals_one_process(lines, name, ranks) -> None:
    found = lines(ranks)
    line = found.get((name, "FLT"), found["errors", ""])
    assert "error" not in line, line["error"]
    adamw = found.get((name, "AdamW"), {}).get("figures", {})
    for key, figure in line["figures"].items():
        print(f"| {name} | {ranks} | {key} | {figure:.1e} | {adamw.get(key, '')} |")
        limit = 0 if isinstance(figure, int) else LIMITS.get(name, ROUNDING)
        assert figure <= limit, f"{name} on {ranks} processes, {key}: {figure}; at most {limit}"


def test_as_many_processes_as_saved_continue_to_the_same_bits(lines) -> None:
    assert set(lines(2)["checkpoint_loaded", "FLT"]["figures"].values()) == {0}
