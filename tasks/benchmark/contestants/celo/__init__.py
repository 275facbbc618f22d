"""Celo, a published learned optimizer, as a peer in the benchmark: its inference, without its weights.

Written from a description of what the published optimizer computes. The weights are their authors' and are
loaded from a file that the user has.

References:
    Moudgil, Knyazev, Lajoie and Belilovsky, 2025, Celo: Training Versatile Learned Optimizers on a Compute
    Diet, https://arxiv.org/abs/2501.12670
"""

from tasks.benchmark.contestants.celo.optimizer import Celo
from tasks.benchmark.contestants.celo.population import CeloPopulation, CeloPopulationFactory
from tasks.benchmark.contestants.celo.weights import CeloWeights, read_weights

__all__ = ["Celo", "CeloPopulation", "CeloPopulationFactory", "CeloWeights", "read_weights"]
