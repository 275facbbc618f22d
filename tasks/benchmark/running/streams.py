"""What all runs of one seed share: the initial weights, the batches, and one thread."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

from tasks.base import Batch, Params, Task

CHUNK = 32  # batches drawn at once; part of the definition of the batch stream


def stream_seed(seed: int, stream: str) -> int:
    """Independent generator seeds for the streams of one seed."""
    return int.from_bytes(hashlib.sha256(f"{stream} {seed}".encode()).digest()[:7], "big")


def initial_parameters(task: Task, seed: int) -> Params:
    """The weights from which every optimizer starts under this seed."""
    return task.init(torch.Generator().manual_seed(stream_seed(seed, "init")))


def batch_stream(task: Task, seed: int, device: str = "cpu") -> Iterator[Batch]:
    """The endless training batches that every optimizer sees under this seed.

    Args:
        task: The instance that runs under this seed.
        seed: The seed.
        device: Where the batches are put; they are drawn on the CPU.

    Yields:
        One batch after the other.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, "batches"))
    while True:
        drawn = task.batches(generator, CHUNK)
        yield from zip(*(part.to(device).unbind() for part in drawn), strict=True)


def task_fingerprint(task: Task, seed: int) -> str:
    """Hash of a task's initial weights, first batches and first loss, and of torch's version.

    Args:
        task: The instance that runs under this seed.
        seed: The cell's seed.

    Returns:
        A hexadecimal string that changes whenever the data, the model or the loss do.
    """
    digest = hashlib.sha256(f"{torch.__version__} {task.name}".encode())
    with one_thread():
        params = initial_parameters(task, seed)
        batch = next(batch_stream(task, seed))
        loss = task.loss(params, batch)
    for tensor in (*params.values(), *batch, loss.detach()):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def validation_fingerprint(task: Task) -> str:
    """Hash of what a task measures at one start, of its metric and of its checksums.

    Returns:
        A hexadecimal string that changes whenever the validation data or the metrics do.

    Raises:
        ValueError: If its metric is none of those that it measures.
    """
    with one_thread(), torch.no_grad():
        measured = task.evaluate(initial_parameters(task, seed=0))
    if task.metric not in measured:
        raise ValueError(
            f"task {task.name}: its metric is {task.metric!r}; expected one that evaluate() returns, "
            f"which are {', '.join(measured) or 'none'}"
        )
    figures = sorted((name, float(value)) for name, value in measured.items())
    content = repr((task.metric, sorted(task.checksums.items()), figures))
    return hashlib.sha256(content.encode()).hexdigest()[:24]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread: a sum's order, hence its last bits, depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def optimizer_randomness(seed: int, device: str) -> Iterator[None]:
    """Let optimizers draw from torch's own generators as the seed says, and leave those as they were."""
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        reseed(seed)
        yield


def reseed(seed: int) -> None:
    """Put torch's own generators where every run of this seed finds them."""
    torch.manual_seed(stream_seed(seed, "optimizer"))
