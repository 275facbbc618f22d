"""Tensors cut in every way, given the same gradients as whole ones: only the statistics can differ."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import inf, nan, prod
from typing import NamedTuple
from warnings import catch_warnings, simplefilter

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.optim import Optimizer

from learned_opt import FLT, LearnedOptimizer, UpdateRule, members
from tests.distributed.harness import OPTIONS, Figures, Make, apart, case, line, square, unequal_bits

SHAPES = ((40, 30), (13, 6), (3, 2, 7), (2, 9), (5,), (1,), ())
STEPS = 10

Place = Callable[[Tensor], Tensor]
Gradients = Callable[[int], list[Tensor]]


def drawn(seed: int) -> list[Tensor]:
    """One tensor of every shape, each of its own scale and with heavy tails."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator) / (0.1 + torch.rand(shape, generator=generator))

    return [10.0**-index * draw(shape) for index, shape in enumerate(SHAPES)]


def cut(mesh: DeviceMesh, *wanted: Placement) -> Place:
    """Place a tensor so; an axis of the mesh that would cut one that it has not replicates instead."""

    def place(tensor: Tensor) -> Tensor:
        able = [
            Replicate() if isinstance(each, Shard) and each.dim >= tensor.ndim else each for each in wanted
        ]
        return distribute_tensor(tensor, mesh, able, src_data_rank=None)

    return place


class Run(NamedTuple):
    """What a run with some placements left."""

    params: list[Tensor]
    memories: list[Tensor]
    optimizer: Optimizer


def run(make: Make, places: Sequence[Place], dtype: torch.dtype, gradients: Gradients) -> Run:
    """Take some steps with tensors each placed by one of the places in turn."""
    chosen = [places[index % len(places)] for index in range(len(SHAPES))]
    starts = zip(chosen, drawn(0), strict=True)
    params = [nn.Parameter(place(start.to(dtype))) for place, start in starts]
    optimizer = make(params)
    for seed in range(1, STEPS + 1):
        for place, param, grad in zip(chosen, params, gradients(seed), strict=True):
            param.grad = place(grad.to(dtype))
        optimizer.step()
    states = [optimizer.state[param] for param in params]
    return Run(params, [state["memory" if "memory" in state else "exp_avg"] for state in states], optimizer)


@cache
def run_uncut(make: Make, dtype: torch.dtype, gradients: Gradients) -> Run:
    """The same with whole tensors."""
    return run(make, [lambda tensor: tensor], dtype, gradients)


def from_uncut(
    make: Make, *places: Place, dtype: torch.dtype = torch.float32, gradients: Gradients = drawn
) -> Figures:
    """How far the parameters, and the state, are from those of a run with whole tensors.

    In bfloat16 a difference is a whole rounding: there, what share of the elements differ.
    """
    ours, whole = run(make, places, dtype, gradients), run_uncut(make, dtype, gradients)
    elements = sum(param.numel() for param in whole.params)
    unequal = unequal_bits(ours.params, whole.params) / elements
    figures = {
        "from uncut": apart(ours.params, whole.params, drawn(0)) if dtype == torch.float32 else unequal,
        "state from uncut": apart(ours.memories, whole.memories, map(torch.zeros_like, whole.memories)),
    }
    if isinstance(ours.optimizer, FLT):
        counts, expected = ours.optimizer.skipped_gradients(), whole.optimizer.skipped_gradients()
        figures["skips unlike uncut"] = len(counts.items() ^ expected.items())
    return figures


@case(2, 4)
def cut_by_rows(make: Make) -> Figures:
    return from_uncut(make, cut(line(), Shard(0)))


@case(2, 4)
def cut_by_columns(make: Make) -> Figures:
    return from_uncut(make, cut(line(), Shard(1)))


@case(4)
def cut_by_the_third_axis(make: Make) -> Figures:
    return from_uncut(make, cut(line(), Shard(2)))


@case(4)
def replicated_and_cut_by_rows(make: Make) -> Figures:
    return from_uncut(make, cut(square(), Replicate(), Shard(0)))


@case(4)
def cut_by_rows_and_columns(make: Make) -> Figures:
    mesh = square()
    return from_uncut(make, cut(mesh, Shard(0), Shard(1)), cut(mesh, Shard(1), Shard(0)))


@case(4)
def cut_twice_by_rows(make: Make) -> Figures:
    return from_uncut(make, cut(square(), Shard(0), Shard(0)))


@case(2, 4)
def cut_and_plain_together(make: Make) -> Figures:
    """FSDP2 of some layers alone, or beside tensor parallelism: many shardings in one optimizer."""
    mesh = line()
    places = [lambda tensor: tensor, cut(mesh, Shard(0)), cut(mesh, Replicate()), cut(mesh, Shard(1))]
    if dist.get_world_size() == 4:
        places.append(cut(square(), Replicate(), Shard(0)))
    return from_uncut(make, *places)


@case(2)
def cut_in_bfloat16(make: Make) -> Figures:
    return from_uncut(make, cut(line(), Shard(0)), dtype=torch.bfloat16)


@case(4)
def cut_and_orthogonal(make: Make) -> Figures:
    options = {"orthogonalize": True} if make.func is FLT else {}
    mesh = line()
    return from_uncut(partial(make, **options), cut(mesh, Shard(0)), cut(mesh, Shard(1)))


@case(4, only=("FLT",))
def cut_and_orthogonal_in_units_of_adam(make: Make) -> Figures:
    """Such a rule needs no whole second moments to make directions orthogonal."""
    rule = UpdateRule()
    make = partial(LearnedOptimizer, rule=rule, meta=rule.init_meta(), orthogonalize=True, **OPTIONS)
    return from_uncut(make, cut(line(), Shard(0)), cut(line(), Shard(1)))


@case(2, 4)
def cut_with_state_in_bfloat16(make: Make) -> Figures:
    """The random bits of a rounding go by the place in the whole tensor.

    Eagerly, as tensors that are cut always are: the native step's arithmetic is rougher for such a state.
    """
    options = {"state_dtype": torch.bfloat16, "backend": "eager"} if make.func is FLT else {}
    places = [cut(line(), Shard(0)), cut(line(), Shard(1))]
    if dist.get_world_size() == 4:
        places.append(cut(square(), Shard(1), Shard(0)))
    return from_uncut(partial(make, **options), *places)


@case(4)
def cut_in_small_packs(make: Make) -> Figures:
    """Every process must cut the tensors into the same runs, whatever its parts hold."""
    before, members.PACK_ELEMENTS = members.PACK_ELEMENTS, 12
    try:
        return from_uncut(make, cut(line(), Shard(0)))
    finally:
        members.PACK_ELEMENTS = before


@case(4)
def other_tensors_on_each_half(make: Make) -> Figures:
    """Pipeline stages: each pair of processes has tensors that the other has not."""
    place = cut(square()["inner"], Shard(0))
    shapes = ((7, 3),) if dist.get_rank() < 2 else ((13, 6), (5,))
    starts = [torch.linspace(-1, 1, prod(shape)).reshape(shape) for shape in shapes]
    ours = [nn.Parameter(place(start)) for start in starts]
    whole = [nn.Parameter(start.clone()) for start in starts]
    optimizers = make(ours), make(whole)
    for power in range(STEPS):
        for param, other, start in zip(ours, whole, starts, strict=True):
            other.grad = start**power + 0.1
            param.grad = place(other.grad)
        for optimizer in optimizers:
            optimizer.step()
    return {"from uncut": apart(ours, whole, starts)}


@case(2, 4, only=("FLT",))
def gradients_not_finite_on_one_process(make: Make) -> Figures:
    """The tensor is skipped by all processes, with the same count, and the others are not."""

    def spoilt(seed: int) -> list[Tensor]:
        grads = drawn(seed)
        wrong = grads[seed % len(grads)].view(-1)
        wrong[-1 if seed % 2 else 0] = (inf, nan, 1e30)[seed % 3]
        return grads

    with catch_warnings():
        simplefilter("ignore")
        return from_uncut(make, cut(line(), Shard(0)), cut(line(), Shard(1)), gradients=spoilt)


@case(4, only=("FLT",))
def gradients_cut_otherwise(make: Make) -> Figures:
    """Gradients as tensor parallelism may leave them: unreduced, replicated, or cut along another axis."""
    mesh, size = line(), dist.get_world_size()

    def unreduced(tensor: Tensor) -> Tensor:
        return DTensor.from_local(tensor / size, mesh, [Partial()])

    placed = [
        (cut(mesh, Replicate()), unreduced),
        (cut(mesh, Shard(0)), cut(mesh, Replicate())),
        (cut(mesh, Shard(0)), cut(mesh, Shard(1))),
        (cut(mesh, Shard(0)), unreduced),
    ]
    chosen = [placed[index % len(placed)] for index in range(len(SHAPES))]
    params = [nn.Parameter(place(start)) for (place, _), start in zip(chosen, drawn(0), strict=True)]
    optimizer = make(params)
    for seed in range(1, STEPS + 1):
        for (_, place), param, grad in zip(chosen, params, drawn(seed), strict=True):
            param.grad = place(grad)
        optimizer.step()
    whole = run_uncut(make, torch.float32, drawn)
    return {"from uncut": apart(params, whole.params, drawn(0))}


@case(2, only=("FLT",))
def refusals(make: Make) -> Figures:
    """Errors that name the parameter, on every process."""
    cut_by_two = nn.Parameter(cut(line(), Shard(0))(torch.ones(3, 2)))
    unreduced = nn.Parameter(DTensor.from_local(torch.ones(3, 2), line(), [Partial()]))
    pieces = make([cut_by_two]).state_dict()
    pieces["state"][0] = {**pieces["state"][0], "memory": pieces["state"][0]["memory"].to_local()}

    def load_pieces() -> None:
        make([cut_by_two]).load_state_dict(pieces)

    def step_differentiably() -> None:
        cut_by_two.grad = torch.ones_like(cut_by_two)
        make([cut_by_two], differentiable=True).step()

    wrong = {
        "unreduced parameter": (lambda: make([unreduced]), ValueError, "shape (3, 2) is placed as"),
        "part as a whole": (load_pieces, ValueError, "memory of parameter 0"),
        "differentiable": (step_differentiably, RuntimeError, "not supported for DTensors: parameter 0"),
    }
    return {name: _unlike(*expected) for name, expected in wrong.items()}


def _unlike(action: Callable[[], object], error: type[Exception], message: str) -> int:
    """0 if it raises this error with this message, else 1."""
    try:
        action()
    except error as raised:
        return int(message not in str(raised))
    return 1
