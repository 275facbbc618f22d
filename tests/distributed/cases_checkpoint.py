"""Distributed checkpoints: laid out before the first step, saved by some processes, loaded by others."""

from copy import deepcopy

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from tests.distributed import harness
from tests.distributed.harness import (
    STEPS,
    Figures,
    Make,
    apart,
    case,
    line,
    network,
    share,
    train,
    train_alone,
    unequal_bits,
    whole_tensors,
)

HALF = range(STEPS // 2)
REST = range(STEPS // 2, STEPS)
FORMS = {
    "sharded": StateDictOptions(),
    "flattened": StateDictOptions(flatten_optimizer_state_dict=True),
    "full": StateDictOptions(full_state_dict=True),
    "full, on rank 0": StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True),
}


def built(make: Make) -> tuple[nn.Module, Optimizer]:
    """A model, cut if there is more than one process, and its optimizer."""
    model = network()
    if dist.get_world_size() > 1:
        fully_shard(model, mesh=line())
    return model, make(model.parameters())


def everything(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """All parameters and all state, whole."""
    params = list(model.parameters())
    states = (optimizer.state[param] for param in params)
    return whole_tensors([*params, *(state[key] for state in states for key in sorted(state))])


def stored(model: nn.Module, optimizer: Optimizer, options: StateDictOptions) -> dict:
    """What a distributed checkpoint holds."""
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }


def put(model: nn.Module, optimizer: Optimizer, state: dict, options: StateDictOptions) -> None:
    """Give back what `stored` took."""
    set_model_state_dict(model, state["model"], options=options)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)


@case(2, 4)
def laid_out_before_the_first_step(make: Make) -> Figures:
    """What a checkpoint of a fresh optimizer holds, without a step taken to find out."""
    model, optimizer = built(make)
    steps: list[Optimizer] = []
    optimizer.register_step_pre_hook(lambda optimizer, *_: steps.append(optimizer))
    state = get_optimizer_state_dict(model, optimizer)["state"]
    fresh = whole_tensors(tensor for entry in state.values() for tensor in entry.values())
    names = {name for name, _ in model.named_parameters()}
    return {
        "hidden steps": len(steps),
        "parameters without state": len(names - set(state)),
        "nonzero elements": sum(int(tensor.count_nonzero()) for tensor in fresh),
        "parameters moved": unequal_bits(model.parameters(), network().parameters()),
    }


@case(2)
def in_every_form(make: Make) -> Figures:
    """State dicts taken and given back in each form: the optimizer that got it goes on to the same bits."""
    figures = {}
    for form, options in FORMS.items():
        model, optimizer = built(make)
        train(model, optimizer, HALF, share)
        saved = deepcopy(stored(model, optimizer, options))
        train(model, optimizer, REST, share)
        other, fresh = built(make)
        put(other, fresh, saved, options)
        train(other, fresh, REST, share)
        figures[form] = unequal_bits(everything(other, fresh), everything(model, optimizer))
    return figures


@case(2)
def saved_by_each_process(make: Make) -> Figures:
    """`torch.save` of every process's own state dict, read back by it."""
    path = harness.FOLDER / f"{make.func.__name__}-{dist.get_rank()}.pt"
    model, optimizer = built(make)
    train(model, optimizer, HALF, share)
    torch.save((model.state_dict(), optimizer.state_dict()), path)
    train(model, optimizer, REST, share)
    other, fresh = built(make)
    weights, saved = torch.load(path, weights_only=True)
    other.load_state_dict(weights)
    fresh.load_state_dict(saved)
    train(other, fresh, REST, share)
    return {
        "resumed unlike not stopped": unequal_bits(everything(other, fresh), everything(model, optimizer))
    }


def loaded(make: Make, form: str) -> tuple[nn.Module, Optimizer]:
    """A fresh model and optimizer with what `checkpoint_saved` stored."""
    options = FORMS[form]
    model, optimizer = built(make)
    state = stored(model, optimizer, options)
    dcp.load(state, checkpoint_id=folder(make, form))
    put(model, optimizer, state, options)
    return model, optimizer


def folder(make: Make, form: str) -> str:
    return str(harness.FOLDER / f"{make.func.__name__}-{form}")


@case(2)
def checkpoint_saved(make: Make) -> Figures:
    """Saved by two processes half-way, and continued by them: the run that the others are compared with."""
    model, optimizer = built(make)
    train(model, optimizer, HALF, share)
    for form in ("sharded", "flattened"):
        dcp.save(stored(model, optimizer, FORMS[form]), checkpoint_id=folder(make, form))
    half = everything(model, optimizer)
    train(model, optimizer, REST, share)
    end = everything(model, optimizer)
    if dist.get_rank() == 0:
        torch.save((half, end), folder(make, "whole.pt"))
    return {"from one process": apart(model.parameters(), train_alone(make))}


@case(1, 2, 4)
def checkpoint_loaded(make: Make) -> Figures:
    """Loaded by any number of processes what two saved, then continued."""
    half, end = torch.load(folder(make, "whole.pt"), weights_only=True)
    figures = {}
    for form in ("sharded", "flattened"):
        model, optimizer = loaded(make, form)
        figures[f"{form}: loaded unlike saved"] = unequal_bits(everything(model, optimizer), half)
        train(model, optimizer, REST, share)
        count = len(list(model.parameters()))
        figures[f"{form}: continued from not stopped"] = apart(model.parameters(), end[:count])
    return figures
