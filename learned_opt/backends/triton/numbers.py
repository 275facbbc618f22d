"""The numbers of a rule as kernels take them: tuples of floats, which are passed by value."""

from itertools import chain, islice
from math import cos, pi, sin
from typing import NamedTuple

from learned_opt.backends.recipe import Recipe, Sizes

Floats = tuple[float, ...]
SLOWEST = 1e-19
"""Least rate: where an average forgets nothing it is still a quotient of two numbers above zero."""


class Numbers(NamedTuple):
    """What a rule's kernels are given.

    Attributes:
        rates: Of the averages, the second moment and the waves.
        turns: Cosine, then sine, of every wave's angle.
        mixture: Shares of the mixed rows in each mixing head.
        inputs: Into the hidden layer, ``[hidden, even]``.
        tensor_inputs: Into it, from the RMS of every head, ``[hidden, heads]``.
        progress_inputs: Into it, from what is told of the progress, ``[hidden, progress]``.
        shape_inputs: Into it, from what is told of the shape, ``[hidden, shapes]``.
        bias: Of the hidden layer.
        learned: Of the learned odd functions, ``[directions, odd]``.
        outputs: Out of the hidden layer, ``[outputs, hidden]``.
        output_bias: Of the outputs.
        exponents: Of the RMS of every head, in the gain.
        vector_exponents: What a vector's are more than that, if the shape is told.
        shape_gain: Weights of what is told of the shape, in the gain.
        schedule: Weights of what is told of the progress, in the gain.
        epsilon: Of the rule.
        scale: Place of the rule's scale in `SCALES`.
    """

    rates: Floats
    turns: Floats
    mixture: Floats
    inputs: Floats
    tensor_inputs: Floats
    progress_inputs: Floats
    shape_inputs: Floats
    bias: Floats
    learned: Floats
    outputs: Floats
    output_bias: Floats
    exponents: Floats
    vector_exponents: Floats
    shape_gain: Floats
    schedule: Floats
    epsilon: float
    scale: int


def numbers_of(recipe: Recipe, sizes: Sizes) -> Numbers:
    """Cut the recipe into what each kernel needs."""
    heads, averages, waves, mixing, mixed, hidden, directions, progress, shapes, factored, _ = sizes
    odd, even = heads + 1 + factored, 2 * heads + 1 + factored
    outputs = odd + directions
    weights, rates = iter(recipe.weights.tolist()), recipe.rates.tolist()

    def take(count: int) -> Floats:
        return tuple(islice(weights, count))

    mixture = take(mixing * mixed)
    units = zip(
        *((take(even), take(heads), take(progress), take(shapes)) for _ in range(hidden)), strict=True
    )
    inputs, tensor_inputs, progress_inputs, shape_inputs = (
        tuple(chain.from_iterable(each)) for each in units
    )
    angles = [2 * pi * frequency for frequency in rates[averages + 1 + waves :]]
    return Numbers(
        rates=tuple(max(rate, SLOWEST) for rate in rates[: averages + 1 + waves]),
        turns=tuple(turn(angle) for turn in (cos, sin) for angle in angles),
        mixture=mixture,
        inputs=inputs,
        tensor_inputs=tensor_inputs,
        progress_inputs=progress_inputs,
        shape_inputs=shape_inputs,
        bias=take(hidden),
        learned=take(directions * odd),
        outputs=take(outputs * hidden),
        output_bias=take(outputs),
        exponents=take(heads),
        vector_exponents=take(heads if shapes else 0),
        shape_gain=take(shapes),
        schedule=take(progress),
        epsilon=recipe.epsilon,
        scale=recipe.scale,
    )
