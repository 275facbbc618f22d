import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from learned_opt import load_checkpoint
from learned_opt.memory import Meta
from meta_train.cli import COMMANDS, main
from meta_train.log import read_log
from meta_train.loop import Interrupted
from meta_train.validation import Validation, Validator

MICRO = [
    *("meta-train", "tiny", "--no-compiled", "--families", "quadratic", "--pairs", "2", "--truncation", "5"),
    *("--horizon", "10", "20", "--validation", "digits-mlp-norm", "--validation-steps", "5"),
]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    """The one line on stderr with which these arguments fail."""
    assert main([*arguments]) == status
    printed = capsys.readouterr()
    message = printed.err.removesuffix("\n")
    assert message.startswith("learned-opt: ")
    assert "\n" not in message
    assert "Traceback" not in printed.err
    return message


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert "learned-opt 0." in capsys.readouterr().out


def test_overview_needs_no_torch() -> None:
    code = "import sys; from meta_train.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


RUNS_NOTHING = ("compare",)  # it reads what benchmarks left behind


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in RUNS_NOTHING])
def test_help_tells_the_common_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main([command, "--help"])
    assert exited.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: learned-opt {command} ")
    assert all(f" {option} " in shown for option in ("--device", "--seed", "--out"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["benhc"], "Did you mean 'bench'?"),
        (["meta-train"], "Name a preset first"),
        (["meta-train", "tiny", "--outer-stps", "3"], "perhaps you meant --outer-steps"),
        (["meta-train", "tiny", "--outer-steps", "x"], "--outer-steps"),
        (["meta-train", "tiny", "--outer-steps", "0"], "outer_steps is 0; expected at least 1"),
        (["meta-train", "tiny", "--sigma", "nan"], "sigma is nan"),
        (["meta-train", "tiny", "--families", "digits-vit"], "judges optimizers"),
        (["meta-train", "tiny", "--threads", "0"], "threads is 0"),
        (["meta-train", "tiny", "--seed", "-5"], "seed is -5; expected an integer from 0 to 4294967295"),
        (["meta-train", "tiny", "--seed", "99999999999999999999"], "seed is 99999999999999999999"),
        (["train", "--seed", "-5"], "seed is -5"),
        (["quickstart", "--seed", "-5"], "seed is -5"),
        (["tasks", "--seed", "4294967296"], "seed is 4294967296"),
        (["train", "--epochs", "0"], "epochs is 0; expected at least 1"),
        (["train", "--warmup", "2"], "warmup is 2.0"),
        (["quickstart", "--steps", "0"], "steps is 0; expected at least 1"),
    ],
)
def test_misuse_is_one_line_and_status_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, *arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["meta-train", "tny"], "Did you mean 'tiny'?"),
        (["meta-train", "tiny", "--device", "tpu"], "expected one of cpu, cuda, mps"),
        (["meta-train", "tiny", "--out", "/proc/no"], "cannot write to /proc/no"),
        (["bench", "--optimizers", "adam,admw"], "Did you mean 'adamw'?"),
        (["bench", "--optimizers", "adam", "--tasks", "digits-vt"], "Did you mean 'digits-vit'?"),
        (["bench", "--optimizers", "adam", "--steps", "0"], "steps must be at least 1"),
        (["bench", "--optimizers", "adam", "--seeds", "0"], "seeds is 0"),
        (["bench", "--optimizers", "adam", "--lrs", "1e-3,fast"], "lrs is 1e-3,fast"),
        (["bench", "--optimizers", "adam", "--lrs", "nan"], "finite and above 0"),
        (["bench", "--optimizers", "adam", "--schedules", "cosin"], "Did you mean 'cosine'?"),
        (["bench", "--optimizers", "adam", "--out", "/proc/no"], "cannot write to /proc/no"),
        (["bench", "--optimizers", "adam", "--device", "gpu"], "expected one of cpu, cuda"),
        (["bench", "--optimizers", "/no/such/folder"], "such a folder"),
        (["train", "vit_smal_patch16_224"], "Did you mean 'vit_small_patch16_224'"),
        (["train", "--opt", "adamwe"], "did you mean 'adamw'?"),
        (["train", "--data", "digit"], "did you mean 'digits'?"),
        (["train", "--data", "/etc/hostname"], "is a file"),
        (["train", "--opt", "adamw", "--lr", "-1"], "lr is -1.0"),
        (["train", "--opt", "adamw", "--weight-decay", "nan"], "weight_decay is nan"),
        (["train", "--opt", "adamw", "--image-size", "0"], "image_size is 0"),
        (["train", "vit_tiny_patch16_224", "--image-size", "8"], "does not take images of 8 by 8"),
        (["train", "--opt", "adamw", "--out", "/proc/no"], "cannot write to /proc/no"),
        (["inspect", "flt-bas"], "did you mean 'flt-base'?"),
        (["inspect", "/etc/hostname"], "is a file"),
        (["quickstart", "--optimizer", "/no/such/folder"], "such a folder"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_1(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, *arguments)


def test_missing_data_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no images" in fails(capsys, "train", "--data", str(tmp_path))
    monkeypatch.setenv("FASHION_MNIST_FOLDER", str(tmp_path))
    monkeypatch.setattr("tasks.datasets._LOADED", {})
    assert "dataset-fashion-mnist" in fails(capsys, "train", "--data", "fashion-mnist")


def test_refused_checkpoint_is_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (saved / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(weights[:-1])
    assert "model.safetensors" in fails(capsys, "inspect", str(tmp_path))


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNED_OPT_DEBUG", "1")
    with pytest.raises(ValueError, match="tny"):
        main(["meta-train", "tny"])


def test_meta_train_saves_an_optimizer_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*MICRO, "--outer-steps", "3", "--validation-every", "2", "--out", str(tmp_path)]
    assert main(run) == 0
    assert f"learned-opt inspect {tmp_path}" in capsys.readouterr().out.replace("\n", " ")
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3]
    assert load_checkpoint(tmp_path).facts["outer_steps"] == 3
    assert "already holds a run" in fails(capsys, *run)
    assert main([*run, "--resume"]) == 0
    assert "sigma was 0.01, now 0.5" in fails(capsys, *run, "--sigma", "0.5", "--resume")
    assert main([*run, "--outer-steps", "4", "--resume"]) == 0
    assert load_checkpoint(tmp_path).facts["outer_steps"] == 4


def test_meta_train_says_when_nothing_beat_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = Validator.__call__

    def worse(validator: Validator, meta: Meta) -> Validation:
        return replace(validate(validator, meta), score=0.1)

    monkeypatch.setattr(Validator, "__call__", worse)
    assert main([*MICRO, "--outer-steps", "1", "--workers", "1", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert f"No validation was better than the start: the optimizer in {tmp_path} is Adam." in shown


def test_meta_train_takes_another_memory(tmp_path: Path) -> None:
    rule = ["--hidden", "3", "--scale", "rms"]
    assert main([*MICRO, "--outer-steps", "1", *rule, "--out", str(tmp_path), "moments-config"]) == 0
    config = json.loads((tmp_path / "config.json").read_text())["rule"]
    assert (config["memory"]["kind"], config["hidden"], config["scale"]) == ("moments", 3, "rms")


def test_a_second_ctrl_c_says_how_far_back_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted(tmp_path, lost=1)

    monkeypatch.setattr("meta_train.commands.meta_train.run_with_display", interrupted)
    message = fails(capsys, *MICRO, "--out", str(tmp_path), status=130)
    assert f"Stopped; the last checkpoint in {tmp_path} is 1 outer step back. To go on: " in message


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = [*MICRO, "--outer-steps", "100000", "--validation-every", "50000", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "meta_train.cli", *arguments], stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(read_log(tmp_path)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    message = errors.decode().strip()
    assert process.returncode == 130
    assert "\n" not in message
    again = f"To go on: learned-opt meta-train tiny --resume {' '.join(arguments[2:])}"
    assert f"Stopped and saved in {tmp_path}. {again}" in message
    done = read_log(tmp_path)[-1]["step"]
    assert load_checkpoint(tmp_path).facts["outer_steps"] == done
