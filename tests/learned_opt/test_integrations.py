import copy
import logging
import pickle
from types import SimpleNamespace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer, create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import CosineLRScheduler
from torch import nn

from learned_opt import FLT, CheckpointError, load_checkpoint, shipped_names
from learned_opt.integrations import PretrainedOptimizer, register_with_timm


@pytest.fixture(scope="module", autouse=True)
def names() -> list[str]:
    return register_with_timm()


@pytest.fixture
def model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=8, depth=2, num_heads=2
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        images = torch.randn(4, 1, 8, 8, generator=generator)
        model(images).square().mean().backward()
        optimizer.step()
    return [param.detach().clone() for param in model.parameters()]


def test_every_shipped_rule_is_listed_once_however_often_it_is_registered(names, caplog) -> None:
    before = list_optimizers()
    with caplog.at_level(logging.WARNING):
        assert register_with_timm() == names
    assert not caplog.records
    assert list_optimizers() == before
    assert len(names) == len(shipped_names())
    assert "fltbase" in names
    descriptions = dict(list_optimizers("flt*", with_description=True))
    assert "flt-base" in descriptions["fltbase"]


def test_no_name_shadows_one_of_timms(names) -> None:
    for name in names:
        assert get_optimizer_class(name, bind_defaults=False) is PretrainedOptimizer


def test_what_timm_builds_is_flt(model) -> None:
    twin = copy.deepcopy(model)
    built = create_optimizer_v2(model.parameters(), opt="fltbase", lr=2e-3, weight_decay=0.1)
    direct = FLT(twin.parameters(), lr=2e-3, weight_decay=0.1)
    torch.testing.assert_close(train(model, built), train(twin, direct), rtol=0, atol=0)


def test_weight_decay_spares_biases_and_norms(model) -> None:
    optimizer = create_optimizer_v2(model, opt="fltbase", weight_decay=0.1)
    decays = {
        id(param): group["weight_decay"] for group in optimizer.param_groups for param in group["params"]
    }
    assert decays[id(model.patch_embed.proj.weight)] == 0.1
    assert decays[id(model.patch_embed.proj.bias)] == decays[id(model.norm.weight)] == 0.0
    assert optimizer.defaults["lr"] == load_checkpoint("flt-base").config.default_lr


def test_layer_decay_scales_the_learning_rate_through_timms_schedulers(model) -> None:
    optimizer = create_optimizer_v2(model, opt="fltbase", lr=1e-2, weight_decay=0.1, layer_decay=0.5)
    scheduler = CosineLRScheduler(optimizer, t_initial=10, warmup_t=2, warmup_lr_init=1e-4)
    scheduler.step_update(0)
    scheduler.step(3)
    lrs = {id(param): group["lr"] for group in optimizer.param_groups for param in group["params"]}
    head, embedding = lrs[id(model.head.weight)], lrs[id(model.patch_embed.proj.weight)]
    assert embedding / head == pytest.approx(0.5**3)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) == 4
    before = model.head.weight.detach().clone()
    train(model, optimizer)
    assert not torch.equal(model.head.weight, before)


def test_the_options_of_timms_command_line_are_taken(model) -> None:
    options = SimpleNamespace(
        opt="fltbase", lr=3e-3, weight_decay=0.05, momentum=0.9, opt_eps=1e-6, opt_betas=(0.9, 0.95)
    )
    optimizer = create_optimizer(options, model)
    assert isinstance(optimizer, PretrainedOptimizer)
    assert {group["lr"] for group in optimizer.param_groups} == {3e-3}


def test_timms_lookahead_wraps_it(model) -> None:
    optimizer = create_optimizer_v2(model, opt="lookahead_fltbase", lr=1e-3)
    state = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, steps=7)
    optimizer.load_state_dict(state)


def test_a_folder_as_a_class_is_the_optimizer_of_that_folder(tmp_path, model) -> None:
    twin = copy.deepcopy(model)
    FLT(model.parameters()).save_pretrained(tmp_path)
    optimizer = PretrainedOptimizer(model.parameters(), name_or_folder=tmp_path, lr=2e-3, weight_decay=0.1)
    direct = FLT(twin.parameters(), lr=2e-3, weight_decay=0.1)
    torch.testing.assert_close(train(model, optimizer), train(twin, direct), rtol=0, atol=0)


def test_a_built_optimizer_survives_pickle(model) -> None:
    optimizer = create_optimizer_v2(model, opt="fltbase", lr=1e-3)
    train(model, optimizer)
    loaded_model, loaded = pickle.loads(pickle.dumps((model, optimizer)))
    torch.testing.assert_close(train(loaded_model, loaded), train(model, optimizer), rtol=0, atol=0)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'flt-bse'.*did you mean 'flt-base'"):
        PretrainedOptimizer([torch.zeros(2)], name_or_folder="flt-bse")
