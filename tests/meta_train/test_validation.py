import pytest
import torch

from learned_opt.rule import UpdateRule
from meta_train.validation import LEARNING_RATES, SEEDS, Validator
from tasks import get_task


def validator(rule, **changes):
    options = {"steps": 20, "compression": 0.1, "compiled": False} | changes
    return Validator(("quadratic",), rule, rule.init_meta(), **options)


def test_adam_scores_nought_against_itself():
    rule = UpdateRule()
    result = validator(rule)(rule.init_meta())
    assert result.score == 0.0


def test_a_rule_that_climbs_scores_worse_than_adam():
    rule = UpdateRule()
    meta = rule.init_meta()
    meta["head.output_bias"][0] = -2.0
    assert validator(rule)(meta).score > 0.05


def test_adams_final_loss_is_that_of_torch_adam_at_its_best():
    """The definition, with torch's optimizer and scheduler, one run at a time."""
    rule = UpdateRule()
    steps, task = 20, get_task("quadratic")
    ours = validator(rule, steps=steps).adam["quadratic"]
    low, high = task.learning_rates
    finals = []
    for rate in torch.logspace(0, 1, LEARNING_RATES, base=high / low) * low:
        for cosine in (False, True):
            finals.append(
                sum(_final(task, float(rate), cosine, seed, steps) for seed in range(SEEDS)) / SEEDS
            )
    assert ours == pytest.approx(min(finals), rel=1e-3)


def _final(task, rate, cosine, seed, steps):
    params = {
        name: value.requires_grad_() for name, value in task.init(torch.Generator().manual_seed(seed)).items()
    }
    generator = torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(params.values(), lr=rate, eps=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        loss = task.loss(params, task.batch(generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if cosine:
            schedule.step()
        losses.append(loss.detach())
    tail = task.normalise(torch.stack(losses[-steps // 10 :])) / 0.1
    return float((torch.asinh(tail) / torch.asinh(torch.tensor(10.0))).mean())
