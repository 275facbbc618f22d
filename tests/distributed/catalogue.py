"""All cases: importing their modules enters them."""

from tests.distributed import (
    cases_checkpoint,
    cases_data_parallel,
    cases_fully_sharded,
    cases_placements,
    cases_state_dict,
)
from tests.distributed.harness import CASES

__all__ = [
    "CASES",
    "cases_checkpoint",
    "cases_data_parallel",
    "cases_fully_sharded",
    "cases_placements",
    "cases_state_dict",
]
