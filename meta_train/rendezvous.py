"""Where the processes that ``torchrun`` started meet."""

import os
from collections.abc import Iterator
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

MEETING = "torchrun-attempt://"
"""An ``init_method`` of `torch.distributed.init_process_group`: ``env://``, apart from earlier attempts."""


def restarts() -> int:
    """How often torchrun has started the processes again, since one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _meet(_address: str, **options: Any) -> Iterator[tuple[Store, int, int]]:
    """Meet without what workers left in the store before ``torchrun`` restarted them on one machine.

    Its agent keeps the store, and the addresses of dead workers in it, which new ones would try to reach. On
    several machines the agents may count restarts differently, so that nothing can be told apart there.
    """
    store, rank, size = next(iter(rendezvous("env://", **options)))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        store = PrefixStore(f"attempt-{restarts()}", store)
    yield store, rank, size


register_rendezvous_handler(MEETING.partition(":")[0], _meet)  # type: ignore[no-untyped-call]
