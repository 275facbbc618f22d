import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernattn import kernel_attention, pairwise_lags, softmax_attention


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_is_its_definition(causal: bool) -> None:
    query, key, value = (normal(1, 2, 5, width, seed=width) for width in (3, 3, 4))
    log_mask, rate = normal(2, 5, 5, seed=9), torch.tensor([0.0, 0.7], dtype=torch.float64)
    output = softmax_attention(query, key, value, log_mask=log_mask, decay_rate=rate, causal=causal)
    for head in range(2):
        for i in range(5):
            weights = [
                0.0
                if causal and j > i
                else math.exp(
                    float(query[0, head, i] @ key[0, head, j]) / math.sqrt(3)
                    + float(log_mask[head, i, j])
                    - float(rate[head]) * abs(i - j)
                )
                for j in range(5)
            ]
            expected = sum(w * value[0, head, j] for j, w in enumerate(weights)) / sum(weights)
            torch.testing.assert_close(output[0, head, i], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_agrees_with_torch(causal: bool) -> None:
    query, key, value = (normal(2, 3, 11, 4, seed=seed) for seed in range(3))
    mask = normal(3, 11, 11, seed=3)
    torch.testing.assert_close(
        softmax_attention(query, key, value, log_mask=mask),
        scaled_dot_product_attention(query, key, value, mask),
    )
    torch.testing.assert_close(
        softmax_attention(query, key, value, causal=causal),
        scaled_dot_product_attention(query, key, value, is_causal=causal),
    )


@pytest.mark.parametrize("causal", [False, True])
def test_kernel_attention_with_the_exponential_kernel_is_softmax_attention(causal: bool) -> None:
    query, key, value = (normal(2, 2, 6, 4, seed=seed) for seed in range(3))
    rate = torch.tensor([0.1, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        kernel_attention((query @ key.mT / 2).exp(), value, decay_rate=rate, causal=causal),
        softmax_attention(query, key, value, decay_rate=rate, causal=causal),
    )


def test_the_future_changes_nothing() -> None:
    query, key, value = (normal(1, 2, 6, 4, seed=seed) for seed in range(3))
    weights = (query @ key.mT).exp()
    before = softmax_attention(query, key, value, causal=True), kernel_attention(weights, value, causal=True)
    key[:, :, 4:] *= 100
    value[:, :, 4:] = 1e30
    after = softmax_attention(query, key, value, causal=True), kernel_attention(weights, value, causal=True)
    for left, right in zip(before, after, strict=True):
        assert torch.equal(left[:, :, :4], right[:, :, :4])


def test_pairwise_lags_are_differences_query_minus_key() -> None:
    lags = pairwise_lags(torch.tensor([[1, 5], [4, 7]]))
    assert lags.tolist() == [[[0, 0], [-3, -2]], [[3, 2], [0, 0]]]
    batch = pairwise_lags(torch.arange(6.0).view(2, 3, 1), torch.arange(2.0)[:, None])
    assert batch[1, :, :, 0].tolist() == [[3, 2], [4, 3], [5, 4]]


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(length: int) -> None:
    query, key, value = (normal(1, 2, length, 3, seed=seed) for seed in range(3))
    torch.testing.assert_close(softmax_attention(query, key, value, causal=True), value)


@pytest.mark.parametrize("causal", [False, True])
def test_padded_keys_take_no_part_and_queries_without_keys_read_0(causal: bool) -> None:
    query, key, value = (normal(3, 2, 5, 4, seed=seed) for seed in range(3))
    mask = torch.tensor([[True] * 5, [True, True, True, False, False], [False] * 5])
    output = softmax_attention(query, key, value, causal=causal, key_mask=mask)
    allowed = mask[:, None, None, :].expand(3, 2, 5, 5)
    expected = scaled_dot_product_attention(
        query[:2], key[:2], value[:2], (allowed.tril() if causal else allowed)[:2]
    )
    torch.testing.assert_close(output[:2], expected)
    assert (output[2] == 0).all()
    key[1, :, 3:], value[1, :, 3:] = torch.nan, torch.inf
    assert torch.equal(softmax_attention(query, key, value, causal=causal, key_mask=mask), output)


def test_a_query_whose_log_mask_forbids_everything_reads_0() -> None:
    query, key, value = (normal(1, 1, 3, 4, seed=seed) for seed in range(3))
    mask = torch.tensor([[0.0, 0.0, 0.0], [-torch.inf] * 3, [0.0, -torch.inf, 0.0]])
    output = softmax_attention(query, key, value, log_mask=mask)
    assert (output[0, 0, 1] == 0).all()
    torch.testing.assert_close(output[..., :1, :], softmax_attention(query[..., :1, :], key, value))


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_extreme_logits_are_finite_with_their_gradients(size: float) -> None:
    leaves = [(size * normal(1, 2, 5, 4, seed=seed)).requires_grad_() for seed in range(3)]
    output = softmax_attention(*leaves, causal=True)
    assert output.isfinite().all()
    assert all(x.isfinite().all() for x in torch.autograd.grad(output.square().sum(), leaves))


def test_half_precision_is_worked_on_in_float32() -> None:
    query, key, value = (normal(1, 1, 9, 4, seed=seed).bfloat16() for seed in range(3))
    expected = softmax_attention(query.float(), key.float(), value.float()).bfloat16()
    assert torch.equal(softmax_attention(query, key, value), expected)


def test_bad_input_is_named() -> None:
    x = normal(1, 2, 5, 3, seed=0)
    with pytest.raises(ValueError, match=r"query must be \[B, H, L, \.\], got shape \[2, 5, 3\]"):
        softmax_attention(x[0], x, x)
    with pytest.raises(ValueError, match=r"query and key disagree on D \(axis 3\): 3, 2"):
        softmax_attention(x, x[..., :2], x)
    with pytest.raises(ValueError, match=r"query and key disagree on L \(axis 2\): 4, 5"):
        softmax_attention(x[:, :, :4], x, x, causal=True)
    with pytest.raises(ValueError, match=r"key must be real floating point, got torch.int64"):
        softmax_attention(x, x.long(), x)
    with pytest.raises(
        ValueError, match=r"decay_rate must broadcast to the leading axes \[1, 2\], got \[3\]"
    ):
        softmax_attention(x, x, x, decay_rate=torch.zeros(3))
    with pytest.raises(ValueError, match="one device, got query on cpu, key on cpu, value on meta"):
        softmax_attention(x, x, x.to("meta"))
    with pytest.raises(ValueError, match=r"position and key_position disagree on l \(axis -1\): 1, 2"):
        pairwise_lags(x[0, 0, :, :1], x[0, 0, :, :2])
    with pytest.raises(ValueError, match=r"weights and value disagree on L'"):
        kernel_attention(x @ x.mT, x[:, :, :4])
