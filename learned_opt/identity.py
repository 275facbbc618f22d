"""Marks in parameter groups: of which rule a state is and in which format, to refuse what is another's."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch

from learned_opt.architecture import RuleConfig
from learned_opt.memory import Meta
from learned_opt.serial import to_json

FORMAT_VERSION = 1
RULE_ID, VERSION = "rule_id", "format_version"
"""They stand in every parameter group, not in state dicts alone, and are whole numbers: distributed
checkpointing keeps just these, and of a flattened state dict just what the optimizer's own groups have."""


def rule_id(config: RuleConfig, meta: Meta) -> int:
    """A number below 2^53 that differs between rules: of the architecture and the weights in float32."""
    digest = sha256(json.dumps(to_json(config), sort_keys=True).encode())
    for name in sorted(meta):
        digest.update(name.encode() + meta[name].detach().to("cpu", torch.float32).numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 11


def mark(group: dict[str, Any], rule: int) -> None:
    """Put our marks into a group, whatever others there were."""
    group.update({RULE_ID: rule, VERSION: FORMAT_VERSION})


def check_marks(group: Mapping[str, Any], rule: int) -> None:
    """Refuse a group of another rule or of a format to come; one without marks passes.

    Raises:
        ValueError: It names what was found and what was expected.
    """
    version = group.get(VERSION, FORMAT_VERSION)
    if version > FORMAT_VERSION:
        raise ValueError(
            f"state dict has {VERSION} {version}; this release reads up to {FORMAT_VERSION}: "
            "upgrade learned-opt"
        )
    if (found := group.get(RULE_ID, rule)) != rule:
        raise ValueError(
            f"state dict is of another rule ({RULE_ID} {found}; this optimizer's is {rule}): "
            "load it into an optimizer with the weights that it was saved with"
        )
