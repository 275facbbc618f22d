from typing import Any

import pytest
import torch

from kernattn import LocalBox, LocalTriangle

LAGS = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]


def local(kind: Any, *values: Any, **options: Any) -> Any:
    return kind(*(torch.tensor(value, dtype=torch.float64) for value in values), **options)


def test_triangle_is_its_definition() -> None:
    exact = local(LocalTriangle, [2.0, -3.0], [[2.0], [1.5]])
    expected = torch.stack([(2.0 - LAGS[:, 0].abs()), -2 * (1.5 - LAGS[:, 0].abs())])
    expected = torch.stack([expected[0].clamp(min=0), expected[1].clamp(max=0)])
    torch.testing.assert_close(exact.log_mask(LAGS), expected)
    plane = local(LocalTriangle, [6.0], [[2.0, 3.0]])
    corner = torch.tensor([[1.0, -2.0], [2.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(plane.log_mask(corner), torch.tensor([[1.0, 0.0]], dtype=torch.float64))


def test_ratios_of_the_triangle_are_bounded_under_a_cauchy() -> None:
    exact = local(LocalTriangle, [2.0], [[1.5]])
    samples = exact.sample(100_000, proposal="cauchy", generator=torch.Generator().manual_seed(0))
    assert samples.ratio_real.min() >= 0
    assert samples.ratio_real.max() < 2 * 2.0
    near = samples.frequency.abs() < 0.5 / 1.5
    assert near.any()
    assert (samples.ratio_real[near[..., 0]] > 0).all()


@pytest.mark.parametrize("proposal", ["gaussian", "normal"])
def test_a_proposal_with_lighter_tails_is_refused(proposal: Any) -> None:
    with pytest.raises(ValueError, match=r"the variance is finite only if integral g\^2 / p is"):
        local(LocalTriangle, [2.0], [[1.5]]).sample(4, proposal=proposal)


def test_the_radius_of_the_triangle_is_no_parameter() -> None:
    radius = torch.ones(1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="sampled gradients have infinite variance under every proposal"):
        LocalTriangle(torch.ones(1), radius).sample(4)


def test_the_box_is_refused_unless_it_is_band_limited() -> None:
    box = local(LocalBox, [2.0, 0.0], [[1.5], [1.0]])
    expected = torch.where(LAGS[:, 0].abs() <= 1.5, 2.0, 0.0)
    assert torch.equal(box.log_mask(LAGS)[0], expected.double())
    assert box.amplitude().tolist() == [torch.inf, 0.0]
    with pytest.raises(ValueError, match=r"falls as 1 / xi, so that \|g\|_1 and the variance under every"):
        box.sample(4)
    for band in (0.0, -1.0, torch.inf):
        with pytest.raises(ValueError, match="band must be positive and finite"):
            local(LocalBox, [2.0], [[1.5]], band=band)


def test_a_wider_band_is_nearer_to_the_box_and_overshoots_at_its_edge() -> None:
    box = local(LocalBox, [1.0], [[1.0]])
    away = LAGS[(LAGS.abs() - 1).abs()[:, 0] > 0.2]
    errors, ratios = [], []
    for band in (4.0, 16.0, 64.0):
        limited = local(LocalBox, [1.0], [[1.0]], band=band)
        errors.append(float((limited.log_mask(away) - box.log_mask(away)).abs().max()))
        edge = torch.linspace(0.5, 1.0, 4001, dtype=torch.float64)[:, None]
        assert abs(float(limited.log_mask(edge).max()) - 1.09) < 0.01
        samples = limited.sample(20_000, stratified=True, generator=torch.Generator().manual_seed(1))
        assert (samples.amplitude <= limited.amplitude()).all()
        assert samples.ratio_real.abs().max() <= limited.amplitude() * (1 + 1e-9)
        ratios.append(float(limited.amplitude()))
    assert errors[2] < errors[1] / 3 < errors[0] / 9
    assert abs((ratios[2] - ratios[1]) - (ratios[1] - ratios[0])) < 1e-9


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"height must be \[H\], got shape \[1, 1\]"):
        local(LocalTriangle, [[1.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"radius must be \[H, l\] with H = 1 and l >= 1, got \[2, 1\]"):
        local(LocalTriangle, [1.0], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="radius must be positive"):
        local(LocalTriangle, [1.0], [[0.0]]).sample(4)
    with pytest.raises(ValueError, match="radius must be positive"):
        local(LocalBox, [1.0], [[-1.0]], band=1.0).sample(4)
    with pytest.raises(ValueError, match=r"radius must be torch.float32 like height, got torch.float64"):
        LocalTriangle(torch.ones(1), torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="one device, got height on cpu, radius on meta"):
        LocalBox(torch.ones(1), torch.ones(1, 1, device="meta"))
    with pytest.raises(ValueError, match=r"no orthogonal samples: the triangle's density is no function of"):
        local(LocalTriangle, [1.0], [[1.0, 1.0]]).sample(4, orthogonal=True)
    with pytest.raises(ValueError, match=r"no orthogonal samples: the box's density is no function of"):
        local(LocalBox, [1.0], [[1.0, 1.0]], band=1.0).sample(4, orthogonal=True)
