"""DistributedDataParallel: every process holds the whole model and sees its rows of the batch."""

import warnings
from contextlib import nullcontext
from math import nan

import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.harness import (
    STEPS,
    Figures,
    Make,
    apart,
    batch,
    case,
    loss_of,
    network,
    share,
    train,
    train_alone,
    unequal_between_ranks,
    unequal_bits,
)


@case(2, 4)
def ddp(make: Make) -> Figures:
    model = DistributedDataParallel(network())
    optimizer = make(model.parameters())
    train(model, optimizer, range(STEPS), share)
    return {
        "from one process": apart(model.parameters(), train_alone(make)),
        "elements unequal between ranks": unequal_between_ranks(model.parameters()),
        "state unequal between ranks": unequal_between_ranks(
            tensor for state in optimizer.state.values() for tensor in state.values()
        ),
    }


@case(2)
def ddp_with_accumulated_gradients(make: Make) -> Figures:
    model = DistributedDataParallel(network())
    optimizer = make(model.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        pieces = share(batch(step)).chunk(3)
        for piece in pieces:
            with nullcontext() if piece is pieces[-1] else model.no_sync():
                (loss_of(model, piece) / len(pieces)).backward()
        optimizer.step()
    return {
        "from one process": apart(model.parameters(), train_alone(make)),
        "elements unequal between ranks": unequal_between_ranks(model.parameters()),
    }


@case(2, only=("FLT",))
def ddp_with_a_batch_that_is_not_finite(make: Make) -> Figures:
    """One process's rows spoil everyone's gradients: the step is skipped, by all."""
    model = DistributedDataParallel(network())
    optimizer = make(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(STEPS):
            optimizer.zero_grad()
            factor = nan if (step, dist.get_rank()) == (4, 1) else 1.0
            (factor * loss_of(model, share(batch(step)))).backward()
            optimizer.step()
    alone = network()
    other = make(alone.parameters())
    for steps in (range(4), range(5, STEPS)):
        train(alone, other, steps, lambda whole: whole)
    return {
        "from one process": apart(model.parameters(), alone.parameters()),
        "tensors not skipped once": sum(int(state["skipped"]) != 1 for state in optimizer.state.values()),
        "elements unequal between ranks": unequal_between_ranks(model.parameters()),
    }


@case(2)
def zero_redundancy(make: Make) -> Figures:
    """Each process keeps the state of some tensors; half-way it goes to fresh optimizers."""

    def wrapped(model: DistributedDataParallel) -> ZeroRedundancyOptimizer:
        return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=make.func, **make.keywords)

    whole, stopped = DistributedDataParallel(network()), DistributedDataParallel(network())
    train(whole, wrapped(whole), range(STEPS), share)

    first, second = wrapped(stopped), wrapped(stopped)
    train(stopped, first, range(STEPS // 2), share)
    first.consolidate_state_dict(to=0)
    gathered = [first.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(gathered)
    second.load_state_dict(gathered[0])
    train(stopped, second, range(STEPS // 2, STEPS), share)
    return {
        "from one process": apart(whole.parameters(), train_alone(make)),
        "elements unequal between ranks": unequal_between_ranks(whole.parameters()),
        "resumed unlike not stopped": unequal_bits(stopped.parameters(), whole.parameters()),
    }
