"""The FLT of the paper as a stream: random features of content and Fourier features of the step, together."""

from dataclasses import dataclass

from learned_opt.memory.attention import AttentionMemory, check_features


@dataclass(frozen=True)
class FLTV1Config:
    """Heads of linear attention by content and by time; see `AttentionMemory`.

    Args:
        betas: Factor per step at which each head forgets, then learned. The first is Adam's beta1.
        second_beta: Factor per step of the average of squared gradients, Adam's beta2, then learned.
        features: Positive features ``m`` of each head; see `PerformerConfig`.
        wave_frequencies: Fourier samples of every head with features, cycles per step, in (0, 1/2]; then
            learned, with their amplitudes and phases. They take no state.

    Raises:
        ValueError: If a factor is outside (0, 1), a frequency outside (0, 1/2], or the features are not as
            many numbers from 0.
    """

    betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_beta: float = 0.999
    features: tuple[int, ...] = (1, 2, 0)
    wave_frequencies: tuple[float, ...] = (0.25, 0.05)

    def __post_init__(self) -> None:
        check_features(self.betas, self.second_beta, self.features)
        for frequency in self.wave_frequencies:
            if not 0.0 < frequency <= 0.5:
                raise ValueError(f"frequency {frequency} is outside (0, 1/2] cycles per step")

    def build(self) -> AttentionMemory:
        """The memory of this configuration."""
        return AttentionMemory(self, self.wave_frequencies)
