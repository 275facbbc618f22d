"""A run that is stopped anywhere, and goes on in a new process, ends in the same bits."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.contract import resuming
from tests.contract.resuming import GRADIENTS, Case, Group, Run, bits

Continue = Callable[[Run], dict[str, Tensor]]

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple) | st.just((190, 180))
dtypes = st.sampled_from(["float32", "float64", "bfloat16", "float16"])
options = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 0.1),
        "weight_decay": st.floats(0, 0.5),
        "maximize": st.booleans(),
        "orthogonalize": st.booleans(),
    }
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps = draw(st.integers(1, 6))
    groups = []
    for index in range(draw(st.integers(1, 3))):
        tensors = draw(st.lists(st.tuples(shapes, dtypes, st.booleans()), min_size=1, max_size=3))
        added = draw(st.integers(0, steps - 1)) if index else 0
        groups.append(Group(tuple(tensors), added, draw(st.booleans()), draw(options)))
    groups.sort(key=lambda group: group.added)
    tensors = sum(len(group.tensors) for group in groups)
    gradients = st.tuples(*[st.sampled_from(GRADIENTS)] * tensors)
    return Case(
        groups=tuple(groups),
        gradients=draw(st.tuples(*[gradients] * steps)),
        stop=draw(st.integers(0, steps)),
        scale=10.0 ** draw(st.integers(-6, 3)),
        state_dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        named=draw(st.booleans()),
        seed=draw(st.integers(0, 2**20)),
    )


@pytest.fixture(scope="module")
def continue_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Continue]:
    """Continue a run to its end in a new process; on one thread here and there, as sums depend on it."""
    path = tmp_path_factory.mktemp("stopped") / "run.pt"
    command = [sys.executable, resuming.__file__]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def elsewhere(run: Run) -> dict[str, Tensor]:
            run.save(path)
            print(path, file=server.stdin, flush=True)
            assert server.stdout.readline() == "0\n", "the run failed in the new process"
            return torch.load(path, weights_only=True)

        yield elsewhere
        server.stdin.close()
    torch.set_num_threads(threads)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_a_run_goes_on_in_a_new_process_to_the_same_bits(continue_elsewhere: Continue, case: Case) -> None:
    straight, stopped = Run(case), Run(case)
    straight.advance(case.steps)
    stopped.advance(case.stop)
    expected, found = straight.result(), continue_elsewhere(stopped)
    assert found.keys() == expected.keys()
    assert [name for name in expected if bits(found[name]) != bits(expected[name])] == []
