"""What the engine of meta-training is timed against: a plain loop, and the halves of its own inner step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from learned_opt.backends.compiled import INDUCTOR_OPTIONS
from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.estimators import EVOLUTION, combine, draw
from meta_train.flat import flatten, unflatten
from meta_train.objective import meta_loss
from meta_train.unroll import repeated
from tasks import get_family


class PlainLoop:
    """One member after the other."""

    def __init__(self, config: MetaTrainConfig) -> None:
        self.config, self.rule = config, UpdateRule(config.rule)
        self.like = self.rule.init_meta()
        self.theta = flatten(self.like)
        self.generator = torch.Generator().manual_seed(0)
        self.task = get_family(config.families[0]).sample(self.generator)
        starts = [self.task.init(self.generator) for _ in range(config.pairs)]
        self.members = [
            [(dict(start), self.rule.init_state(list(start.values()), pooled=True)) for start in starts]
            for _ in range(2)
        ]

    def advance(self, windows: int) -> int:
        """Advance all members; the inner steps that were taken."""
        config, estimator = self.config, EVOLUTION["pes"]
        for _ in range(windows):
            drawn = draw(config.pairs, len(self.theta), sigma=config.sigma, generator=self.generator)
            carried = estimator.episode(drawn, config.sigma)
            losses = torch.zeros(2, config.pairs)
            for pair in range(config.pairs):
                batches = self.task.batches(self.generator, config.truncation)
                for sign in range(2):
                    meta = unflatten(self.theta + (1, -1)[sign] * carried.noise[pair], self.like)
                    losses[sign, pair] = self._unroll(sign, pair, meta, batches)
            combine(carried.score[None], (losses[0] - losses[1])[None])
        return windows * config.truncation * 2 * config.pairs

    def _unroll(self, sign: int, pair: int, meta: dict[str, Tensor], batches: tuple[Tensor, ...]) -> Tensor:
        params, state = self.members[sign][pair]
        losses = []
        for batch in zip(*batches, strict=True):
            leaves = {name: value.requires_grad_() for name, value in params.items()}
            loss = self.task.loss(leaves, batch)
            grads = torch.autograd.grad(loss, list(leaves.values()))
            with torch.no_grad():
                moves, state = self.rule.update(meta, state, grads, list(params.values()))
                params = {
                    name: value - 1e-3 * move
                    for (name, value), move in zip(params.items(), moves, strict=True)
                }
            losses.append(loss.detach())
        self.members[sign][pair] = params, state
        return meta_loss(self.task, torch.stack(losses), compression=self.config.compression).mean()


def halves(config: MetaTrainConfig, device: str) -> dict[str, Callable[[], Any]]:
    """The two halves of the inner step, each compiled alone, on inputs of the engine's shapes."""
    generator = torch.Generator().manual_seed(0)
    rule, task = UpdateRule(config.rule), get_family(config.families[0]).sample(generator)
    start = task.init(generator)

    def everyone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        members = repeated(tensors, 2, config.pairs)
        return {name: value.to(device) for name, value in members.items()}

    def move(meta, state, grads, params):
        directions, state = rule.update(meta, state, list(grads.values()), list(params.values()))
        moved = [value - 1e-3 * each for value, each in zip(params.values(), directions, strict=True)]
        return moved, state

    compiled = partial(torch.compile, dynamic=False, fullgraph=True, options=INDUCTOR_OPTIONS)
    gradient = compiled(vmap(vmap(grad_and_value(task.loss)), in_dims=(0, None)))
    moving = compiled(vmap(vmap(move)))
    params, meta = everyone(start), everyone(rule.init_meta())
    state = everyone(rule.init_state(list(start.values()), pooled=True))
    batch = tuple(part.to(device) for part in task.batches(generator, config.pairs))
    grads = gradient(params, batch)[0]
    return {"task": lambda: gradient(params, batch), "rule": lambda: moving(meta, state, grads, params)}
