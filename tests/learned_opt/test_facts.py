import copy

import torch
from torch import nn

from learned_opt import FLT, Checkpoint, LearnedOptimizer, load_checkpoint
from learned_opt import optimizer as optimizer_module
from learned_opt.integrations import PretrainedOptimizer


def test_what_is_known_of_a_rule_goes_where_it_goes(tmp_path, monkeypatch) -> None:
    facts = load_checkpoint("flt-base").facts
    assert facts
    params = [nn.Parameter(torch.zeros(2))]
    optimizer = copy.deepcopy(FLT(params))
    optimizer.save_pretrained(tmp_path / "again")
    again = LearnedOptimizer.from_pretrained(tmp_path / "again", params)
    assert again.facts == PretrainedOptimizer(params, name_or_folder="flt-base").facts == facts
    again.save_pretrained(tmp_path / "other", {"steps": 3})
    assert load_checkpoint(tmp_path / "other").facts == {"steps": 3}

    pushed: list[tuple[Checkpoint, str, dict[str, object]]] = []
    monkeypatch.setattr(
        optimizer_module, "push_to_hub", lambda rule, repo, **options: pushed.append((rule, repo, options))
    )
    again.push_to_hub("me/mine", private=True)
    ((rule, repo, options),) = pushed
    assert (rule.facts, repo, options) == (facts, "me/mine", {"private": True})
    assert all(torch.equal(rule.meta[name], value) for name, value in again.meta.items())
