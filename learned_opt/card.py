"""The model card that is saved with every rule."""

import json

from learned_opt.memory import Meta
from learned_opt.rule import RuleConfig, UpdateRule
from learned_opt.serial import JSON, to_json

TEMPLATE = """\
---
library_name: learned-opt
tags: [learned-optimizer, pytorch]
---
# {name}

A learned optimizer for PyTorch: {weights} weights, {floats} floats of state for each parameter it trains.

```python
from learned_opt import LearnedOptimizer

optimizer = LearnedOptimizer.from_pretrained("path/to/{name}", model.parameters(), lr=1e-3)
```

## Architecture
```json
{rule}
```

## Meta-training
{facts}
"""


def model_card(name: str, config: RuleConfig, meta: Meta, facts: dict[str, JSON]) -> str:
    """A page in Markdown that says what the rule is and how it came to be."""
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items()]
    return TEMPLATE.format(
        name=name,
        weights=sum(tensor.numel() for tensor in meta.values()),
        floats=UpdateRule(config).floats_per_parameter,
        rule=json.dumps(to_json(config), indent=2),
        facts="\n".join(["| fact | value |", "|---|---|", *rows]) if rows else "Nothing was recorded.",
    )


def _cell(value: JSON) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
