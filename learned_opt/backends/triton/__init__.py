"""The rule as a few kernels of Triton for all tensors together, which run in place on a GPU."""

from learned_opt.backends.triton.update import TritonUpdate

__all__ = ["TritonUpdate"]
