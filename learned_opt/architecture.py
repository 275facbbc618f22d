"""What an update rule is made of: its architecture, before any number in it is learned."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from learned_opt.head import ACTIVATIONS, SCALES, Activation, Scale
from learned_opt.memory import FLTConfig, MemoryConfig
from learned_opt.orthogonal import MUONS, POLYNOMIALS
from learned_opt.serial import SINCE_THEN

Statistics = Literal["current", "delayed"]
Vectors = Literal["learned", "adam"]


@dataclass(frozen=True)
class RuleConfig:
    """Architecture of an update rule.

    Args:
        memory: What is remembered of each parameter's gradients.
        hidden: Width of the head's hidden layer.
        directions: Odd functions of the gradient history that the head may add.
        scale: Size of a tensor's direction; see `Head`.
        epsilon: Added to the root second moment, in units of its tensor's root mean second moment.
        statistics: Whether the gain of a tensor, the RMS of its averages, of which the head is told, its mean
            second moment and the RMS of its parameters are those of this step or, ``"delayed"``, of the one
            before; of none, at first, where parameters count as large. A step then needs little of all of
            a tensor before it can move the first of its parameters. A gain that is kept is at most
            ``exp(2)``: a direction that happens to be short must not make the next one long.
        factored: Whether the head is told of the row-and-column estimate of the second moment, which needs a
            pass over all of a tensor.
        activation: Of the head's hidden layer.
        shapes: Whether the head is told of each tensor's number of axes and size, and sizes the directions of
            vectors otherwise than those of matrices.
        progress: Whether the rule is told how many steps there are. It then has a schedule of its own, which
            starts as a half cosine, and the head knows how far a tensor has come.
        default_lr: Learning rate where the user gives none.
        orthogonal: Whether directions of matrices are made orthogonal where the user does not say; see
            `learned_opt.orthogonal`. Whoever applies the directions does it: they come from the rule as ever.
        iterations: How many make them so, 3 or, as Muon's, 5; see `learned_opt.orthogonal.POLYNOMIALS`.
        tempered: Whether a power of the root second moment is learned with which directions are multiplied
            before they are made orthogonal; see `learned_opt.orthogonal.tempered`.
        spectral: Whether the sizes of orthogonal directions fall with the width, see
            `learned_opt.orthogonal.spectral_size`, rather than as is learned of a tensor's size.
        vectors: By what tensors of at most one axis go: what was learned, or, ``"adam"``, the rule at its
            initial meta-parameters, which is Adam, but for a gain that is learned where the head is told of
            shapes. Their state is laid out alike.

    Raises:
        ValueError: If a width is below 1, the scale, the statistics, the activation, the iterations or the
            vectors are unknown, epsilon is negative or not finite, or the default learning rate is not
            positive and finite.
    """

    memory: MemoryConfig = field(default_factory=FLTConfig)
    hidden: int = 12
    directions: int = 4
    scale: Scale = "adam"
    epsilon: float = 1e-8
    statistics: Statistics = field(default="current", metadata={SINCE_THEN: True})
    factored: bool = field(default=True, repr=False, metadata={SINCE_THEN: True})
    activation: Activation = field(default="softsign", repr=False, metadata={SINCE_THEN: True})
    shapes: bool = field(default=False, repr=False, metadata={SINCE_THEN: True})
    progress: bool = field(default=False, repr=False, metadata={SINCE_THEN: True})
    default_lr: float = field(default=1e-3, repr=False, metadata={SINCE_THEN: True})
    orthogonal: bool = field(default=False, repr=False, metadata={SINCE_THEN: True})
    iterations: int = field(default=MUONS, repr=False, metadata={SINCE_THEN: True})
    tempered: bool = field(default=False, repr=False, metadata={SINCE_THEN: True})
    spectral: bool = field(default=False, repr=False, metadata={SINCE_THEN: True})
    vectors: Vectors = field(default="learned", repr=False, metadata={SINCE_THEN: True})

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.directions < 1:
            raise ValueError(
                f"hidden={self.hidden} and directions={self.directions}; expected at least 1 each"
            )
        if self.scale not in SCALES:
            raise ValueError(f"scale {self.scale!r} is unknown; expected one of {', '.join(SCALES)}")
        if self.statistics not in get_args(Statistics):
            known = ", ".join(get_args(Statistics))
            raise ValueError(f"statistics {self.statistics!r} are unknown; expected one of {known}")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation {self.activation!r} is unknown; expected one of {known}")
        if self.iterations not in POLYNOMIALS:
            known = ", ".join(map(str, POLYNOMIALS))
            raise ValueError(f"iterations are {self.iterations}; expected one of {known}")
        if self.vectors not in get_args(Vectors):
            known = ", ".join(get_args(Vectors))
            raise ValueError(f"vectors go by {self.vectors!r}; expected one of {known}")
        if not 0.0 <= self.epsilon < float("inf"):
            raise ValueError(f"epsilon is {self.epsilon}; expected a finite number of at least 0")
        if not 0.0 < self.default_lr < float("inf"):
            raise ValueError(f"default_lr is {self.default_lr}; expected a finite number above 0")


LEAN = RuleConfig(
    hidden=8, directions=2, statistics="delayed", factored=False, activation="relu", shapes=True
)
"""An architecture whose step costs little more than its bytes; see ``docs/performance.md``."""
SHAPED = replace(LEAN, orthogonal=True, iterations=3, tempered=True, spectral=True, vectors="adam")
"""The same with directions of matrices made orthogonal, and vectors left to Adam."""
