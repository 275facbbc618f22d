import platform
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.backends.native import build, update
from learned_opt.memory import Meta

Trained = Callable[[UpdateRule], Meta]


@pytest.fixture
def trained() -> Trained:
    """Meta-parameters as far from Adam's as training would take them: every one of them perturbed."""

    def perturb(rule: UpdateRule, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Meta:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=dtype)
            for name, tensor in rule.init_meta(dtype=dtype).items()
        }

    return perturb


@pytest.fixture
def make(trained: Trained) -> Callable[..., LearnedOptimizer]:
    """An optimizer with a rule that is not Adam."""
    rule = UpdateRule()
    meta = trained(rule)

    def build(params, lr=1e-2, **options):
        return LearnedOptimizer(params, lr, **{"rule": rule, "meta": meta, **options})

    return build


@pytest.fixture
def adam_rule() -> UpdateRule:
    """The rule that at its start is Adam to rounding: no epsilon, no output normalisation."""
    return UpdateRule(RuleConfig(scale="none", epsilon=0.0))


@pytest.fixture(scope="session")
def vit_gradients() -> tuple[list[Tensor], list[list[Tensor]]]:
    """Initial weights of a small Vision Transformer, and its gradients over 100 steps of Adam on digits."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2
        )
    params = list(model.parameters())
    initial = [param.detach().clone() for param in params]
    optimizer = torch.optim.Adam(params, lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    gradients = []
    for _ in range(100):
        rows = torch.randint(len(images), (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        gradients.append([param.grad.clone() for param in params])
        optimizer.step()
    return initial, gradients


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["-mno-avx512f -mno-fma", "-mno-avx -U__FLT16_MAX__"], ids=["8 lanes", "4 lanes"])
def narrower(request, monkeypatch):
    """Compiled as for an older machine, and by a compiler that has no type for float16."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{platform.machine()} knows no such flags")
    monkeypatch.setenv("CXX", f"{build.find_compiler()[0]} {request.param}")
    monkeypatch.setattr(update, "_libraries", {})
