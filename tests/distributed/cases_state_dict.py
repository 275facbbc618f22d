"""State dicts judged by torch's own mixin: those of a distributed optimizer against one process's."""

import warnings
from copy import deepcopy

from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.common_utils import TestCase

from tests.distributed.harness import STEPS, Figures, Make, case, line, network, share, train

with warnings.catch_warnings(record=True):  # torch's own module imports a deprecated one
    from torch.testing._internal.distributed.common_state_dict import VerifyStateDictMixin


class Judge(VerifyStateDictMixin, TestCase):
    """Torch's checks."""


def judged(model: nn.Module, make: Make) -> Figures:
    """Train a model, some of which each process may hold, and judge its optimizer's state dict."""
    alone = network()
    other, optimizer = make(alone.parameters()), make(model.parameters())
    train(alone, other, range(STEPS), lambda whole: whole)
    train(model, optimizer, range(STEPS), share)
    saved, named = deepcopy(other.state_dict()), get_optimizer_state_dict(model, optimizer)
    judge = Judge()
    judge._verify_osd(alone, other, saved, named)
    judge._verify_osd_by_load(alone, other, make(alone.parameters()), named)
    return {"checks failed": 0}


@case(2)
def torchs_checks_of_ddp(make: Make) -> Figures:
    return judged(DistributedDataParallel(network()), make)


@case(2, 4)
def torchs_checks_of_fsdp(make: Make) -> Figures:
    return judged(fully_shard(network(), mesh=line()), make)
