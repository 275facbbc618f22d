"""The model card that is saved with every rule."""

import json
from collections.abc import Iterator, Mapping
from typing import Literal

from learned_opt.architecture import RuleConfig
from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from learned_opt.serial import JSON, to_json

Origin = Literal["folder", "shipped", "hub"]

USAGE: dict[Origin, str] = {
    "folder": """\
from learned_opt import LearnedOptimizer

optimizer = LearnedOptimizer.from_pretrained("path/to/{name}", model.parameters(), {options})""",
    "shipped": """\
from learned_opt import LearnedOptimizer

optimizer = LearnedOptimizer.from_pretrained("{name}", model.parameters(), {options})""",
    "hub": """\
from huggingface_hub import snapshot_download
from learned_opt import LearnedOptimizer

folder = snapshot_download("{name}")
optimizer = LearnedOptimizer.from_pretrained(folder, model.parameters(), {options})""",
}

STEPS = """

It is told how many steps there will be, `total_steps`, and has a schedule of its own: give it no other.
`lr` is {lr:g} by default, with which it was meta-trained."""

TEMPLATE = """\
---
library_name: learned-opt
license: {license}
tags: [learned-optimizer, optimizer, pytorch]
---
# {name}

A learned optimizer for PyTorch, to be used where Adam is: a network of {weights} weights, the same for every
parameter, reads the history of that parameter's gradients and writes its update.

## Use
```python
{usage}
```
It needs the package `learned-opt`. `lr` and `weight_decay` are in AdamW's units. The state takes {floats}
floats for each parameter, {bytes} bytes, or {half_bytes} with `state_dtype=torch.bfloat16`; Adam's takes 2
floats, 8 bytes.{steps}

## Limits
- It learned from the tasks under "Meta-training" alone. On other models, data and learning rates it may do
  worse than Adam, or diverge: compare the two on your own problem first (`learned-opt bench`).
- A training run saved with these weights can be resumed with these weights only.

## Architecture
{rule}

## Meta-training
{facts}
"""


def model_card(
    name: str, config: RuleConfig, meta: Meta, facts: Mapping[str, JSON], *, origin: Origin = "folder"
) -> str:
    """A page in Markdown that says how to use a rule, what it is and how it came to be.

    Args:
        name: Of the rule; on the Hugging Face Hub, of its repository.
        config: The architecture.
        meta: Its meta-parameters.
        facts: How it was meta-trained. ``license`` is the licence of the weights.
        origin: Whence a reader of the card loads it.
    """
    licence = facts.get("license", "apache-2.0" if origin == "shipped" else "unknown")
    floats = UpdateRule(config).floats_per_parameter
    options = "total_steps=1000" if config.progress else f"lr={config.default_lr:g}"
    return TEMPLATE.format(
        name=name,
        license=json.dumps(licence),
        usage=USAGE[origin].format(name=name, options=options),
        steps=STEPS.format(lr=config.default_lr) if config.progress else "",
        weights=sum(tensor.numel() for tensor in meta.values()),
        floats=floats,
        bytes=4 * floats,
        half_bytes=2 * floats,
        rule=_table("part", to_json(config)),
        facts=_table("fact", facts) if facts else "Nothing was recorded.",
    )


def _table(first: str, values: Mapping[str, JSON]) -> str:
    return "\n".join([f"| {first} | value |", "|---|---|", *_rows(values)])


def _rows(values: Mapping[str, JSON], prefix: str = "") -> Iterator[str]:
    """One row a value, those of nested objects under dotted names; the rule has a table of its own."""
    for key, value in values.items():
        if not isinstance(value, dict):
            yield f"| {_cell(prefix + key)} | {_cell(value)} |"
        elif key != "rule":
            yield from _rows(value, f"{prefix}{key}.")


def _cell(value: JSON) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.replace("|", "\\|").splitlines())
