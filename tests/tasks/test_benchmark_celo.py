import copy
import pickle
import sys

import numpy as np
import pytest
import torch

from tasks.benchmark.contestants.celo import Celo, read_weights
from tasks.benchmark.contestants.celo.features import factored_axes
from tasks.benchmark.contestants.celo.optimizer import published_view
from tasks.benchmark.contestants.celo.schedule import loss_decays
from tasks.benchmark.contestants.celo.weights import WIDTHS
from tests.tasks.celo_reference import reference

CASES = {
    prefix + name: (prefix, name)
    for prefix, names in (
        ("", ("w0", "b0", "w1", "b1", "conv")),
        ("x_", ("scalar", "one", "square", "rank3", "cube", "tied4d", "colvec")),
    )
    for name in names
}


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("msgpack")
    return read_weights(reference("theta.state"))


@pytest.fixture(scope="module")
def golden():
    with np.load(reference("celo_golden.npz")) as data:
        return dict(data)


def to_torch(array, layout):
    tensor = torch.from_numpy(np.array(array))
    if layout == "torch" and tensor.dim() == 2:
        return tensor.T.contiguous()
    return tensor.permute(3, 2, 0, 1).contiguous() if layout == "torch" and tensor.dim() == 4 else tensor


def replay(golden, prefix, weights, layout):
    """Run a golden tree; the parameters after every step, and the optimizer's schedule."""
    suffix = ".weight" if layout == "torch" else ""
    names = [str(name) for name in golden[f"{prefix}names"]]
    params = {name: to_torch(golden[f"{prefix}params/{name}"][0], layout).requires_grad_() for name in names}
    pairs = [(name + suffix, tensor) for name, tensor in params.items()]
    optimizer = Celo(pairs, weights=weights, steps=int(golden[f"{prefix}num_steps"]))
    for step, loss in enumerate(golden[f"{prefix}losses"]):
        for name, tensor in params.items():
            tensor.grad = to_torch(golden[f"{prefix}grads/{name}"][step], layout)
        optimizer.step(loss=float(loss))
        yield step, params, optimizer.state[params[names[0]]]["schedule"]


@pytest.mark.parametrize("layout", ["published", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_parameters_follow_the_golden_run(golden, weights, case, layout):
    prefix, name = CASES[case]
    for step, params, _ in replay(golden, prefix, weights, layout):
        expected = to_torch(golden[f"{prefix}params/{name}"][step + 1], layout)
        torch.testing.assert_close(params[name].detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "x_"])
def test_the_schedule_follows_the_golden_run(golden, weights, prefix):
    steps = int(golden[f"{prefix}num_steps"])
    np.testing.assert_allclose(loss_decays(steps).numpy(), golden[f"{prefix}loss_decays"], rtol=1e-6)
    fields = {"lstm_h": "hidden", "lstm_c": "cell", "loss_means": "means", "loss_running_min": "lowest"}
    for step, _, schedule in replay(golden, prefix, weights, "published"):
        for theirs, ours in fields.items():
            expected = golden[f"{prefix}{theirs}"][step]
            np.testing.assert_allclose(schedule[ours].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), None), ((5,), None), ((4, 4), (1, 0)), ((16, 4), (0, 1)), ((3, 3, 2, 5), (3, 1)), ((7, 1), (0, 1))],
)
def test_the_two_largest_axes_are_factored_and_of_equal_ones_the_later(shape, axes):
    assert factored_axes(shape) == axes


@pytest.mark.parametrize(
    ("name", "shape", "seen"),
    [
        ("1.weight", (2, 3), (3, 2)),
        ("attention.in_proj_weight", (2, 3), (3, 2)),
        (None, (2, 3), (3, 2)),
        ("tokens.weight", (2, 3), (2, 3)),
        ("x", (2, 3), (2, 3)),
        ("proj.weight", (2, 3, 4, 5), (4, 5, 3, 2)),
        ("norm.weight", (2,), (2,)),
        ("scale", (), (1,)),
    ],
)
def test_layouts_by_name(name, shape, seen):
    tensor = torch.zeros(shape)
    view = published_view(name, tensor)
    assert tuple(view.shape) == seen
    assert view.data_ptr() == tensor.data_ptr()


def a_run(optimizer, parameter, count):
    for step in range(count):
        parameter.grad = torch.full_like(parameter, 0.1 * (step + 1))
        optimizer.step(loss=1 / (step + 1))
    return parameter.detach().clone()


def test_the_state_goes_on_where_it_was_saved(weights):
    first = torch.ones(3, 2, requires_grad=True)
    optimizer = Celo([("a.weight", first)], weights=weights, steps=10)
    a_run(optimizer, first, 3)
    second = first.detach().clone().requires_grad_()
    loaded = Celo([("a.weight", second)], weights=weights, steps=10)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again = pickle.loads(pickle.dumps(optimizer))
    expected = a_run(optimizer, first, 2)
    assert torch.equal(a_run(loaded, second, 2), expected)
    assert torch.equal(a_run(again, again.param_groups[0]["params"][0], 2), expected)


def test_a_closure_gives_the_loss_and_the_gradients(weights):
    def closure():
        loss = parameter.square().sum()
        parameter.grad = None
        loss.backward()
        return loss

    parameter = torch.ones(3, requires_grad=True)
    other = torch.ones(3, requires_grad=True)
    other.grad = torch.full((3,), 2.0)
    loss = Celo([parameter], weights=weights, steps=10).step(closure)
    Celo([other], weights=weights, steps=10).step(loss=3.0)
    assert loss.item() == 3.0
    assert torch.equal(parameter.detach(), other.detach())


def test_the_learning_rate_multiplies_the_published_step(weights):
    moved = {}
    for lr in (1.0, 3.0):
        parameter = torch.ones(4, requires_grad=True)
        parameter.grad = torch.arange(4.0)
        Celo([parameter], lr, weights=weights, steps=10).step(loss=1.0)
        moved[lr] = parameter.detach() - 1
    torch.testing.assert_close(moved[3.0], 3 * moved[1.0], rtol=1e-3, atol=1e-6)


def test_bad_options_are_named(weights):
    parameter = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="lr must be"):
        Celo([parameter], -1.0, weights=weights, steps=10)
    with pytest.raises(ValueError, match="steps must be"):
        Celo([parameter], weights=weights, steps=0)
    with pytest.raises(ValueError, match="float32"):
        Celo([parameter.detach().double().requires_grad_()], weights=weights, steps=1)
    optimizer = Celo([parameter], weights=weights, steps=1)
    with pytest.raises(ValueError, match="float32"):
        optimizer.add_param_group({"params": [torch.ones(2, dtype=torch.float64)]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="takes the loss"):
        Celo([parameter], weights=weights, steps=1).step()


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xff\xff", b"not weights at all", b"\x81\xa1a\x01"])
def test_a_file_of_something_else_is_named(tmp_path, content):
    pytest.importorskip("msgpack")
    path = tmp_path / "theta.state"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"theta\.state holds no weights of Celo"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ([0.0] * 64, "TypeError: expected an array, got list"),
        (np.zeros((1, 63)), r"ValueError: expected shape \(1, 64\), got \(1, 63\)"),
        (np.full((1, 64), np.nan), "ValueError: expected finite numbers, got nan"),
    ],
)
def test_arrays_that_are_no_weights_are_named(tmp_path, start, why):
    msgpack = pytest.importorskip("msgpack")

    def packed(array):
        shape, data = array.shape, array.astype("<f4").tobytes()
        return msgpack.ExtType(1, msgpack.packb((shape, "float32", data)))

    first = {f"w0__{k}": packed(np.zeros((1, width, 4))) for k, width in enumerate(WIDTHS)}
    tree = {
        "rnn_params": {},
        "ff_mod_stack": {"~": first},
        "lstm_init_state": {"hidden": packed(start) if isinstance(start, np.ndarray) else start},
    }
    (tmp_path / "theta.state").write_bytes(msgpack.packb(tree))
    with pytest.raises(ValueError, match=rf"holds no weights of Celo \({why}"):
        read_weights(tmp_path)


def test_a_missing_file_and_a_missing_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"cannot be read from .*none"):
        read_weights(tmp_path / "none")
    (tmp_path / "theta.state").write_bytes(b"\x80")
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ModuleNotFoundError, match="baselines"):
        read_weights(tmp_path)
