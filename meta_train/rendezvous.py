"""Where the processes that ``torchrun``, or another launcher, started meet."""

import os
from collections.abc import Iterator
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

MEETING = "torchrun-attempt://"
"""An ``init_method`` of `torch.distributed.init_process_group`: ``env://``, apart from earlier attempts."""


VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each of several processes; the first two stand for being launched."""


def launched() -> int:
    """How many processes a launcher started, this one among them; 1 if there was none.

    Raises:
        ValueError: If it started several and told this one less than it needs to meet them.
    """
    if not any(name in os.environ for name in VARIABLES[:2]):
        return 1
    if os.environ.get("WORLD_SIZE") != "1":
        _require_variables()
    return int(os.environ["WORLD_SIZE"])


def _require_variables() -> None:
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"the environment does not set {', '.join(missing)}; expected torchrun, or a launcher that sets "
            f"{', '.join(VARIABLES)}"
        )
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ[name].isdecimal():
            raise ValueError(f"{name} is {os.environ[name]!r}; expected a whole number")
    if int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        raise ValueError(
            f"RANK is {os.environ['RANK']}; expected less than WORLD_SIZE, {os.environ['WORLD_SIZE']}"
        )


def restarts() -> int:
    """How often torchrun has started the processes again, since one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _meet(_address: str, **options: Any) -> Iterator[tuple[Store, int, int]]:
    """Meet without what workers left in the store before ``torchrun`` restarted them on one machine.

    Its agent keeps the store, and the addresses of dead workers in it, which new ones would try to reach. On
    several machines the agents may count restarts differently, so that nothing can be told apart there.
    """
    _require_variables()
    store, rank, size = next(iter(rendezvous("env://", **options)))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        store = PrefixStore(f"attempt-{restarts()}", store)
    yield store, rank, size


register_rendezvous_handler(MEETING.partition(":")[0], _meet)  # type: ignore[no-untyped-call]
