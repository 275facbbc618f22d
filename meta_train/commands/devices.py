"""Where to compute."""

import torch

KINDS = ("cpu", "cuda", "mps")


def require_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If there is none on this machine.
    """
    if name.split(":")[0] not in KINDS:
        raise ValueError(
            f"device is {name!r}; expected one of {', '.join(KINDS)}, or one with its number: cuda:1"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ValueError(f"device {name!r} cannot be used on this machine: {reason}") from None
    return device
