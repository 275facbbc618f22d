import pytest
import torch

from tasks import get_task
from tasks.benchmark import Entry
from tasks.benchmark.running.alone import run_cell
from tasks.benchmark.running.cell import Cell


class Averaged(torch.optim.SGD):
    """Keeps the mean of its iterates; the parameters are that mean in eval mode, as schedule-free ones do."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.modes, self.sums, self.count = [], {}, 0

    def train(self):
        self.modes.append("train")

    def eval(self):
        self.modes.append("eval")
        for parameter, total in self.sums.items():
            parameter.data = total / self.count

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.count += 1
        for parameter in self.param_groups[0]["params"]:
            self.sums[parameter] = self.sums.get(parameter, 0) + parameter


def run(factory, *, takes=(), steps=5):
    cell = Cell("quadratic", "one", "constant", 1e-2, seed=0, steps=steps)
    return run_cell(get_task("quadratic", seed=0), Entry("one", factory, 1e-2, takes=takes), cell)


def test_modes_are_switched_around_training_and_the_last_weights_are_those_of_eval():
    made = []

    def factory(params, *, lr):
        made.append(Averaged(params, lr))
        return made[-1]

    averaged, plain = run(factory), run(torch.optim.SGD)
    assert made[0].modes == ["train", "eval"]
    assert averaged.curve.tobytes() == plain.curve.tobytes()
    assert averaged.validation["loss"] > plain.validation["loss"]


def test_a_schedule_free_optimizer_is_evaluated_at_its_average():
    library = pytest.importorskip("pytorch_optimizer")
    made = []

    def factory(params, *, lr):
        made.append(library.ScheduleFreeAdamW(params, lr=lr))
        return made[-1]

    assert run(factory, steps=20).error == ""
    assert made[0].param_groups[0]["train_mode"] is False


def test_what_an_entry_takes_is_given_and_nothing_else():
    seen = []

    class Told(torch.optim.SGD):
        def step(self, closure=None, **told):
            gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
            seen.append((told.get("loss"), gradients[0].requires_grad))
            return super().step(closure)

    def factory(params, *, lr, **options):
        seen.append(options)
        return Told(params, lr)

    result = run(factory, takes=("loss", "steps", "graph"))
    assert seen[0] == {"steps": 5}
    assert [float(loss) for loss, _ in seen[1:]] == pytest.approx(result.curve.tolist())
    assert all(graph for _, graph in seen[1:])
    seen.clear()
    run(factory)
    assert seen == [{}, *[(None, False)] * 5]
