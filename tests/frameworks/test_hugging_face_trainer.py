from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from learned_opt import FLT
from learned_opt.integrations import PretrainedOptimizer

transformers = pytest.importorskip("transformers", reason="pip install 'learned-opt[frameworks]'")
pytestmark = pytest.mark.filterwarnings("default")


class Regression(Dataset):
    """Noisy values of a linear function."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(64, 4, generator=generator)
        self.labels = self.inputs.sum(1, keepdim=True) + 0.1 * torch.randn(64, 1, generator=generator)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class Model(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.net(inputs.to(self.net[0].weight.dtype))
        return {"loss": (outputs.float() - labels).square().mean(), "logits": outputs}


def trainer(folder: Path, dtype: torch.dtype, optimizer: tuple) -> "transformers.Trainer":
    options = transformers.TrainingArguments(
        str(folder),
        max_steps=12,
        save_steps=5,
        per_device_train_batch_size=8,
        weight_decay=0.1,
        lr_scheduler_type="cosine",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    return transformers.Trainer(
        Model(dtype), options, train_dataset=Regression(), optimizer_cls_and_kwargs=optimizer
    )


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["model32", "model16"])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, dtype, state_dtype) -> None:
    optimizer = (FLT, {"lr": 1e-2, "state_dtype": state_dtype})
    whole = trainer(tmp_path, dtype, optimizer)
    whole.train()
    assert isinstance(whole.optimizer.optimizer, FLT)
    assert {group["weight_decay"] for group in whole.optimizer.param_groups} == {0.1, 0.0}

    resumed = trainer(tmp_path / "again", dtype, optimizer)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert resumed.state.global_step == 12
    exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
    exactly(list(resumed.model.parameters()), list(whole.model.parameters()))
    exactly(resumed.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"])


def test_a_saved_rule_is_taken_as_a_class(tmp_path) -> None:
    FLT([torch.zeros(1)]).save_pretrained(tmp_path / "rule")
    options = {"name_or_folder": tmp_path / "rule", "lr": 1e-2}
    ours = trainer(tmp_path / "ours", torch.float32, (PretrainedOptimizer, options))
    theirs = trainer(tmp_path / "theirs", torch.float32, (FLT, {"lr": 1e-2}))
    ours.train()
    theirs.train()
    assert isinstance(ours.optimizer.optimizer, PretrainedOptimizer)
    torch.testing.assert_close(list(ours.model.parameters()), list(theirs.model.parameters()), rtol=0, atol=0)
