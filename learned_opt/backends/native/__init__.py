"""The rule as a few fused passes in C++, compiled at first use and run in place."""

from learned_opt.backends.native.build import BuildError
from learned_opt.backends.native.library import Library
from learned_opt.backends.native.update import NativeUpdate

__all__ = ["BuildError", "Library", "NativeUpdate"]
