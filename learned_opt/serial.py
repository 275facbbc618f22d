"""Configuration dataclasses as JSON and back, with every doubt an error."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from learned_opt.memory import MEMORIES
from learned_opt.names import unknown_name

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
T = TypeVar("T")

KIND = "kind"
"""The key that says which memory a configuration is of."""
SINCE_THEN = "since_then"
"""Mark, in a field's metadata, of what configurations did not always have: left out at its default."""


def to_json(config: Any) -> dict[str, JSON]:
    """A configuration dataclass as JSON, with ``kind`` where it is one of `MEMORIES`."""
    kinds = {cls: name for name, cls in MEMORIES.items()}
    kind: dict[str, JSON] = {KIND: kinds[type(config)]} if type(config) in kinds else {}
    values = {field: getattr(config, field.name) for field in fields(config)}
    told = {
        field.name: _plain(value, field.name)
        for field, value in values.items()
        if not (field.metadata.get(SINCE_THEN) and value == field.default)
    }
    return kind | told


def facts_to_json(facts: Mapping[str, Any]) -> dict[str, JSON]:
    """Facts as JSON; a float that is not finite becomes null.

    Raises:
        TypeError: If a value has no JSON form; it names the key.
    """
    return {str(key): _plain(value, str(key)) for key, value in facts.items()}


def from_json(cls: type[T], data: JSON, where: str) -> T:
    """Read a configuration dataclass back.

    Args:
        cls: The dataclass.
        data: What `to_json` gave.
        where: How error messages call it.

    Raises:
        ValueError: If a field is missing, unknown, of another type or out of range.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}; expected an object")
    known = fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in known]
    if unknown := sorted(set(data) - set(names)):
        raise ValueError(unknown_name(f"field of {where}", unknown[0], names))
    needed = [field.name for field in known if not field.metadata.get(SINCE_THEN)]
    if missing := [name for name in needed if name not in data]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    hints = get_type_hints(cls)
    return cls(**{name: _parse(hints[name], data[name], f"{where}.{name}") for name in names if name in data})


def _plain(value: Any, where: str) -> JSON:
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} is a {type(value).__name__}, which has no JSON form")


def _parse(hint: Any, value: JSON, where: str) -> Any:
    if isinstance(hint, UnionType):
        return _parse_memory(value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}; expected a list")
        return tuple(_parse(get_args(hint)[0], item, where) for item in value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{where} is {value!r}; expected one of {', '.join(map(str, get_args(hint)))}")
        return value
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} is {value!r}; expected {hint.__name__}")
    return hint(value)


def _parse_memory(value: JSON, where: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(KIND), str):
        raise ValueError(f"{where} has no {KIND!r}; expected one of {', '.join(MEMORIES)}")
    kind = value[KIND]
    if kind not in MEMORIES:
        raise ValueError(unknown_name(f"{KIND} of {where}", str(kind), MEMORIES))
    return from_json(MEMORIES[str(kind)], {k: v for k, v in value.items() if k != KIND}, where)
