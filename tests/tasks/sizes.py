"""What a computation makes on its way."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestResult(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes while entered; views make none."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            made = (leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
            self.elements = max(self.elements, *made, 0)
        return result
