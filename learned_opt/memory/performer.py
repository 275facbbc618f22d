"""FLT without positions: attention over the gradient history by content alone."""

from dataclasses import dataclass

from learned_opt.memory.attention import AttentionMemory, check_features


@dataclass(frozen=True)
class PerformerConfig:
    """Heads of linear attention with positive features; see `AttentionMemory`.

    Args:
        betas: Factor per step at which each head forgets, then learned. The first is Adam's beta1.
        second_beta: Factor per step of the average of squared gradients, Adam's beta2, then learned.
        features: Positive features of each head. A head takes twice as many floats a parameter, or one where
            it is 0, a plain average. With one feature the content weights what is written; from two on,
            queries choose among it.

    Raises:
        ValueError: If a factor is outside (0, 1), or the features are not as many numbers from 0.
    """

    betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_beta: float = 0.999
    features: tuple[int, ...] = (1, 2, 0)

    def __post_init__(self) -> None:
        check_features(self.betas, self.second_beta, self.features)

    def build(self) -> AttentionMemory:
        """The memory of this configuration."""
        return AttentionMemory(self)
