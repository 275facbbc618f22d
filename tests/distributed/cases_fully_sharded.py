"""FSDP2: every process holds a part of each tensor, some of them an empty one."""

from math import inf

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.utils import clip_grad_norm_

from tests.distributed.harness import (
    STEPS,
    Figures,
    Make,
    apart,
    batch,
    case,
    line,
    loss_of,
    network,
    share,
    square,
    train,
    train_alone,
    unequal_between_ranks,
    whole_tensors,
)


def sharded(mesh: DeviceMesh | None = None, **options) -> nn.Sequential:
    """The network, its linear layers and the rest cut over the processes."""
    model, mesh = network(), mesh or line()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


@case(2, 4)
def fsdp(make: Make) -> Figures:
    model = sharded()
    train(model, make(model.parameters()), range(STEPS), share)
    return {"from one process": apart(model.parameters(), train_alone(make))}


@case(4)
def hybrid_sharded(make: Make) -> Figures:
    model = sharded(square())
    train(model, make(model.parameters()), range(STEPS), share)
    return {
        "from one process": apart(model.parameters(), train_alone(make)),
        "elements unequal between ranks": unequal_between_ranks(model.parameters()),
    }


@case(2)
def fsdp_cut_by_columns(make: Make) -> Figures:
    """FSDP2 cuts another axis than the first only where it divides."""

    def second_if_even(param: nn.Parameter) -> Shard | None:
        return Shard(1) if param.ndim == 2 and param.shape[1] % 2 == 0 else None

    model = sharded(shard_placement_fn=second_if_even)
    train(model, make(model.parameters()), range(STEPS), share)
    return {"from one process": apart(model.parameters(), train_alone(make))}


@case(2)
def fsdp_from_the_meta_device(make: Make) -> Figures:
    """The optimizer comes before there is memory for the parameters."""
    with torch.device("meta"):
        model = fully_shard(network(), mesh=line())
    optimizer = make(model.parameters())
    model.to_empty(device="cpu")
    set_model_state_dict(model, network().state_dict(), options=StateDictOptions(full_state_dict=True))
    train(model, optimizer, range(STEPS), share)
    return {"from one process": apart(model.parameters(), train_alone(make))}


@case(2)
def fsdp_with_accumulated_gradients(make: Make) -> Figures:
    model = sharded()
    optimizer = make(model.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        pieces = share(batch(step)).chunk(3)
        for piece in pieces:
            model.set_requires_gradient_sync(piece is pieces[-1])
            (loss_of(model, piece) / len(pieces)).backward()
        optimizer.step()
    return {"from one process": apart(model.parameters(), train_alone(make))}


@case(2, 4)
def fsdp_with_clipped_gradients(make: Make) -> Figures:
    def clipped(model: nn.Module, rows) -> list[Tensor]:
        optimizer = make(model.parameters())
        norms = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, rows(batch(step))).backward()
            norms.append(clip_grad_norm_(model.parameters(), 0.3))
            optimizer.step()
        return whole_tensors(norms)

    model, alone = sharded(), network()
    norms, expected = clipped(model, share), clipped(alone, lambda whole: whole)
    return {
        "from one process": apart(model.parameters(), alone.parameters()),
        "norms from one process": max(abs(a / b - 1).item() for a, b in zip(norms, expected, strict=True)),
    }


@case(2)
def fsdp_with_scaled_losses(make: Make) -> Figures:
    """An overflow in one process's part makes the scaler skip the step on all."""
    model = sharded()
    optimizer, scaler = make(model.parameters()), GradScaler("cpu", init_scale=1024.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, share(batch(step)))).backward()
        if step == 4 and dist.get_rank() == 1:
            next(model.parameters()).grad.to_local()[0] = inf
        scaler.step(optimizer)
        scaler.update()
    alone = network()
    other = make(alone.parameters())
    for steps in (range(4), range(5, STEPS)):
        train(alone, other, steps, lambda whole: whole)
    return {"from one process": apart(model.parameters(), alone.parameters())}


@case(2)
def fsdp_in_bfloat16(make: Make) -> Figures:
    """Bfloat16 forwards and backwards, float32 parameters: against the same sums by one process."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
    model = fully_shard(network(), mesh=line(), mp_policy=policy)
    train(model, make(model.parameters()), range(STEPS), share)

    alone = network()
    optimizer = make(alone.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        for rows in batch(step).chunk(dist.get_world_size()):
            rounded = network(torch.bfloat16)
            rounded.load_state_dict(alone.state_dict())
            loss_of(lambda rows, rounded=rounded: rounded(rows.bfloat16()).float(), rows).backward()
            for param, other in zip(alone.parameters(), rounded.parameters(), strict=True):
                part = other.grad.float() / dist.get_world_size()
                param.grad = part if param.grad is None else param.grad + part
        optimizer.step()
    return {"from one process": apart(model.parameters(), alone.parameters())}


@case(4)
def fsdp_over_tensor_parallel(make: Make) -> Figures:
    """Layers cut over both axes of the mesh beside layers cut over one."""
    model, mesh = network(), square()
    plan = {
        "0": ColwiseParallel(output_layouts=Replicate()),
        "3": RowwiseParallel(input_layouts=Replicate()),
    }
    fully_shard(parallelize_module(model, mesh["inner"], plan), mesh=mesh["outer"])
    index = mesh.get_local_rank("outer")
    train(model, make(model.parameters()), range(STEPS), lambda whole: whole.chunk(2)[index])
    return {"from one process": apart(model.parameters(), train_alone(make))}
