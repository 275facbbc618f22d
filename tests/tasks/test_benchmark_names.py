"""Optimizers by name: libraries', published and users' own."""

import itertools
import json
import pickle
import sys

import pytest
import torch

from tasks import get_task
from tasks.benchmark import get_entry, run_benchmark
from tasks.benchmark.contestants.libraries import library_names
from tasks.benchmark.running.alone import run_cell
from tasks.benchmark.running.cell import Cell
from tasks.registry import UnknownNameError
from tests.tasks.celo_reference import reference

NEEDS_A_GPU = ("bnb", "fused")
COMPILES = ("kron",)  # with warnings of a package that it would rather have
COUNTER = itertools.count()


def leaves():
    tensors = {"layer.weight": torch.ones(4, 3), "layer.bias": torch.ones(4)}
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def run(entry, steps=20):
    """A run on digits at the centre of the sweep."""
    centre = entry.learning_rates[0] * 100
    cell = Cell("digits-mlp-32", entry.name, "constant", centre, seed=0, steps=steps)
    return run_cell(get_task("digits-mlp-32", seed=0), entry, cell)


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write a module into the working directory, from which nothing is imported otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])

    def write(text):
        name = f"written_{next(COUNTER)}"
        (tmp_path / f"{name}.py").write_text(f"import torch\n{text}\n")
        return name

    return write


@pytest.mark.parametrize(
    "name", [name for name in library_names("timm") if not name.startswith((*NEEDS_A_GPU, *COMPILES))]
)
def test_every_optimizer_of_timm_enters_with_fourteen_rates_over_four_decades(name):
    entry = pickle.loads(pickle.dumps(get_entry(name)))
    assert entry.name == name
    assert len(entry.learning_rates) == 14
    assert entry.learning_rates[-1] == pytest.approx(1e4 * entry.learning_rates[0])
    assert entry.learning_rates[0] <= entry.default_lr <= entry.learning_rates[-1]
    assert entry.build(leaves(), 0.25).param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", ["lion", "muon", "adopt", "lamb", "mars", "adafactor", "nadamw"])
def test_optimizers_of_timm_train(name):
    result = run(get_entry(name))
    assert (result.status, result.error) == ("finished", "")
    assert result.curve[-1] < result.curve[0]


@pytest.mark.parametrize("name", ["soap", "schedulefreeadamw", "prodigy", "shampoo", "po:lion"])
def test_optimizers_of_pytorch_optimizer_train(name):
    pytest.importorskip("pytorch_optimizer")
    entry = get_entry(name)
    assert (entry.name, len(entry.learning_rates)) == (name, 14)
    result = run(entry)
    assert (result.status, result.error) == ("finished", "")
    assert result.curve[-1] < result.curve[0]


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_trust_ratios_are_on(name):
    optimizer = get_entry(name).build(leaves(), 0.1)
    assert optimizer.param_groups[0]["always_adapt"] is True


def test_built_in_names_come_first_and_a_prefix_chooses_the_library():
    assert "timm" not in get_entry("sgd").identity
    assert get_entry("timm:sgd").name == "timm:sgd"
    assert get_entry("timm:sgd").build(leaves(), 0.1).defaults["nesterov"]
    assert get_entry("lion").fingerprint == get_entry("timm:lion").fingerprint
    assert get_entry("lion").fingerprint != get_entry("clion").fingerprint


@pytest.mark.parametrize(
    ("name", "closest"),
    [("adammw", "adamw"), ("lionn", "lion"), ("timm:nadamww", "nadamw"), ("celoo", "celo")],
)
def test_misspelt_names_are_told_the_closest(name, closest):
    with pytest.raises(UnknownNameError, match=rf"id you mean '{closest}'\?"):
        get_entry(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fused optimizers may be built on a GPU")
def test_an_optimizer_that_cannot_be_built_says_why():
    with pytest.raises(ValueError, match=r"'timm:fusedadam' cannot be built .*CUDA"):
        get_entry("fusedadam")


def test_an_optimizer_without_a_learning_rate_is_refused():
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(ValueError, match="'po:a2grad' has no learning rate"):
        get_entry("a2grad")


def test_an_optimizer_that_needs_a_closure_is_refused():
    with pytest.raises(ValueError, match=r"'torch\.optim:LBFGS' cannot step without closure"):
        get_entry("torch.optim:LBFGS")


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    library_names.cache_clear()
    try:
        with pytest.raises(UnknownNameError, match=r"not installed: pip install 'learned-opt\[baselines\]'"):
            get_entry("po:soap")
        with pytest.raises(UnknownNameError, match="Unknown optimizer 'soap'"):
            get_entry("soap")
    finally:
        library_names.cache_clear()


def test_second_order_optimizers_get_the_graph():
    entry = get_entry("adahessian")
    assert entry.takes == ("graph",)
    assert run(entry).status == "finished"


def test_a_users_factory_enters_by_module_and_name(write_module):
    module = write_module("def make(params, lr=0.2):\n    return torch.optim.SGD(params, lr=lr)")
    entry = pickle.loads(pickle.dumps(get_entry(f"{module}:make")))
    assert (entry.name, entry.label, entry.default_lr, entry.takes) == (f"{module}:make", "make", 0.2, ())
    assert (entry.learning_rates[0], entry.learning_rates[-1]) == (0.02, 200.0)
    assert run(entry).status == "finished"
    assert isinstance(get_entry("torch.optim:NAdam").build(leaves(), 0.1), torch.optim.NAdam)


def test_a_users_optimizer_may_ask_for_the_loss_and_the_steps(write_module):
    module = write_module(
        "class Told(torch.optim.SGD):\n"
        "    needs_loss = True\n"
        "    def __init__(self, params, lr, *, steps):\n"
        "        super().__init__(params, lr)\n"
        "        self.left = steps\n"
        "    def step(self, closure=None, *, loss):\n"
        "        assert loss > 0 and not loss.requires_grad\n"
        "        self.left -= 1\n"
        "        assert self.left >= 0\n"
        "        return super().step(closure)\n"
    )
    entry = get_entry(f"{module}:Told")
    assert entry.takes == ("steps", "loss")
    assert entry.default_lr == 1e-3
    assert run(entry, steps=7).error == ""
    with pytest.raises(ValueError, match="takes the number of steps"):
        entry.build(leaves(), 0.1)


def test_a_changed_file_is_another_optimizer(write_module, tmp_path):
    module = write_module("def make(params, lr):\n    return torch.optim.SGD(params, lr)")
    before = get_entry(f"{module}:make")
    assert get_entry(f"{module}:make").fingerprint == before.fingerprint
    (tmp_path / f"{module}.py").write_text("# changed\n" + (tmp_path / f"{module}.py").read_text())
    assert get_entry(f"{module}:make").fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("text", "attribute", "message"),
    [
        ("def make(params, lr):\n    return 'nothing'", "make", "returned str, not a torch.optim.Optimizer"),
        ("def make(params, lr):\n    raise OSError('no luck')", "make", "OSError: no luck"),
        ("def make():\n    return 1", "make", "TypeError"),
        ("make = 3", "make", "is int, no callable"),
        ("", "make", "expected module:callable .*no attribute 'make'"),
        ("", "", "expected module:callable"),
        ("raise RuntimeError('broken')", "make", "RuntimeError: broken"),
    ],
)
def test_a_factory_that_is_none_is_refused(write_module, text, attribute, message):
    module = write_module(text)
    with pytest.raises(ValueError, match=message):
        get_entry(f"{module}:{attribute}")


def test_a_factory_that_swallows_the_rate_is_refused(write_module):
    module = write_module("def make(params, **ignored):\n    return torch.optim.SGD(params, lr=0.1)")
    with pytest.raises(
        ValueError, match=f"'{module}:make' takes no notice of its learning rate: it is the same"
    ):
        get_entry(f"{module}:make")


@pytest.mark.parametrize(
    "text",
    [
        "def make(params, lr):\n"
        "    weight, bias = (tensor for _, tensor in params)\n"
        "    return torch.optim.SGD([{'params': weight, 'lr': 0.1}, {'params': bias, 'lr': lr / 10}])",
        "class make(torch.optim.SGD):\n"
        "    def __init__(self, params, lr):\n"
        "        super().__init__(params, lr=1.0)\n"
        "        self.rate = lr",
    ],
    ids=["in one of the groups", "beside the groups"],
)
def test_a_rate_may_be_anywhere(write_module, text):
    module = write_module(text)
    assert len(get_entry(f"{module}:make").learning_rates) == 14


def test_a_missing_module_is_named():
    with pytest.raises(ValueError, match="No module named 'no_such_module'"):
        get_entry("no_such_module:make")


def test_celo_needs_a_path(monkeypatch, tmp_path):
    monkeypatch.delenv("CELO_WEIGHTS", raising=False)
    with pytest.raises(ValueError, match=r"celo:PATH or in \$CELO_WEIGHTS"):
        get_entry("celo")
    with pytest.raises(ValueError, match="cannot be read"):
        get_entry(f"celo:{tmp_path / 'none'}")


def test_celo_is_told_the_loss_and_the_steps_and_the_results_say_so(tmp_path, monkeypatch):
    pytest.importorskip("msgpack")
    path = reference("theta.state")
    entry = pickle.loads(pickle.dumps(get_entry(f"celo:{path}")))
    monkeypatch.setenv("CELO_WEIGHTS", str(path))
    assert get_entry("celo").fingerprint == entry.fingerprint
    assert (entry.name, entry.default_lr, entry.takes) == ("celo", 1.0, ("loss", "steps"))
    results = run_benchmark(
        ["digits-mlp-32"],
        ["adam", entry],
        seeds=1,
        steps=20,
        schedules=["constant"],
        learning_rates=[1e-2, 1.0],
        out=tmp_path,
        workers=0,
        progress=False,
    )
    assert results.failures() == []
    written = json.loads((tmp_path / "results.json").read_text())
    assert [one["takes"] for one in written["settings"]["optimizers"]] == [[], ["loss", "steps"]]
    assert "losses and number of steps" in (tmp_path / "index.html").read_text()
    celo = results.summary("digits-mlp-32", "celo")
    assert celo.learning_rate == 1.0
    assert 4.0 < celo.state_floats < 4.5
