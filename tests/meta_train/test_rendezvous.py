"""What a launcher has to tell each of several processes."""

import pytest
from torch.distributed.rendezvous import rendezvous

from meta_train.ranks import Ranks
from meta_train.rendezvous import MEETING, VARIABLES
from meta_train.training.processes import join_world

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
LAUNCHER = "expected torchrun, or a launcher that sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT$"


@pytest.fixture(autouse=True)
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def launch(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, f"does not set WORLD_SIZE, MASTER_ADDR, MASTER_PORT; {LAUNCHER}"),
        ({"WORLD_SIZE": "2"}, f"does not set RANK, MASTER_ADDR, MASTER_PORT; {LAUNCHER}"),
        ({**WHOLE, "MASTER_PORT": ""}, f"does not set MASTER_PORT; {LAUNCHER}"),
        ({**WHOLE, "WORLD_SIZE": "two"}, "^WORLD_SIZE is 'two'; expected a whole number$"),
        ({**WHOLE, "RANK": "-1"}, "^RANK is '-1'; expected a whole number$"),
        ({**WHOLE, "RANK": "2"}, "^RANK is 2; expected less than WORLD_SIZE, 2$"),
    ],
)
def test_what_a_launcher_leaves_out_is_named(monkeypatch, variables, message) -> None:
    launch(monkeypatch, variables)
    for join in (Ranks.joined(), join_world("cpu")):
        with pytest.raises(ValueError, match=message), join:
            pass


def test_so_it_is_wherever_processes_meet(monkeypatch) -> None:
    launch(monkeypatch, {**WHOLE, "RANK": "2"})
    with pytest.raises(ValueError, match="RANK is 2; expected less than WORLD_SIZE, 2"):
        next(iter(rendezvous(MEETING)))


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_process_alone_needs_no_launcher(monkeypatch, variables) -> None:
    launch(monkeypatch, variables)
    with Ranks.joined() as ranks:
        assert ranks == Ranks()
