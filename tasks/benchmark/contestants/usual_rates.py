"""The learning rates that are usual for an optimizer: its default, and the centre of its sweep.

A sweep spans four decades, so a centre need only be right within one. Adam's is ten times its default, since
defaults are chosen for runs longer than a benchmark's; so is that of any optimizer that is not in the table.
"""

from __future__ import annotations

DEFAULT = 1e-3
USUAL_RATES: dict[str, tuple[float, float]] = {
    # gradient descent with momentum, whose rate is in units of the gradient
    "SGD": (1e-2, 0.1),
    "SGDW": (1e-2, 0.1),
    "SGDP": (1e-2, 0.1),
    "AccSGD": (1e-2, 0.1),
    "QHM": (1e-2, 0.1),
    "Adai": (1e-2, 0.1),
    "AdaMod": (1e-2, 0.1),
    "PID": (1e-2, 0.1),
    "PNM": (1e-2, 0.1),
    "TAM": (1e-2, 0.1),
    "Shampoo": (1e-2, 0.1),
    "ScalableShampoo": (1e-2, 0.1),
    # the size of an element's step, in units of the parameters
    "Lion": (1e-4, 1e-3),
    "Tiger": (1e-3, 1e-2),
    "RMSprop": (1e-3, 1e-2),
    "RMSpropTF": (1e-3, 1e-2),
    "GrokFastAdamW": (1e-3, 1e-2),
    "Adafactor": (1e-2, 1e-2),
    "SOAP": (3e-3, 1e-2),
    "Adahessian": (0.1, 0.1),
    "AdaHessian": (0.1, 0.1),
    "SM3": (0.1, 0.1),
    "VSGD": (0.1, 0.1),
    # the size of a tensor's step, in units of its norm
    "Lamb": (5e-3, 5e-2),
    "LARS": (1.0, 10.0),
    "AdafactorBigVision": (1e-2, 0.1),
    # the size of a matrix's step, in units of its spectral norm
    "Muon": (2e-2, 5e-2),
    # multiples of a rate that the optimizer finds itself
    "Prodigy": (1.0, 1.0),
    "DAdaptAdaGrad": (1.0, 1.0),
    "DAdaptAdam": (1.0, 1.0),
    "DAdaptAdan": (1.0, 1.0),
    "DAdaptLion": (1.0, 1.0),
    "DAdaptSGD": (1.0, 1.0),
    "ScheduleFreeSGD": (1.0, 1.0),
}


def usual_rates(class_name: str, default: float | None = None) -> tuple[float, float]:
    """An optimizer's default learning rate and the centre of its sweep.

    Args:
        class_name: Name of its class, a key of `USUAL_RATES` or not.
        default: The class's own default, if it has one.

    Returns:
        Both, in the optimizer's units; the table's if it has them, the class's default and ten times that if
        not.
    """
    own = default or DEFAULT
    return USUAL_RATES.get(class_name, (own, 10 * own))
