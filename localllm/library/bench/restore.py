"""Runs read back from plain data: the registry's, or a JSON file's."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from localllm.errors import DamagedFile, UsageProblem
from localllm.library.bench.record import SCHEMA, BenchRun

T = TypeVar("T")


def run_from(data: Mapping[str, Any], *, origin: str) -> BenchRun:
    """The run that `data` is the `asdict` of. `origin` names it in errors.

    Raises UsageProblem for a run of another schema, DamagedFile where something is missing or
    of the wrong type.
    """
    schema = data.get("schema")
    if schema != SCHEMA:
        raise UsageProblem(
            f"{origin} is a benchmark of schema {schema!r}, this program reads {SCHEMA}",
            "measure it again with this version",
        )
    try:
        return value_from(BenchRun, data)
    except (KeyError, TypeError, ValueError) as e:
        raise DamagedFile(f"{origin} is not a whole benchmark run: {e}") from None


def value_from(kind: type[T], data: Any) -> T:
    """`data` as a `kind`: a dataclass from a mapping, its fields the same way down.

    Fields that `data` does not have take their defaults; those that `kind` does not know are
    dropped. Raises KeyError, TypeError, ValueError.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{kind.__name__} wants an object, not {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if not field.init:
            continue  # it follows from the others
        if field.name in data:
            given[field.name] = _value(hints[field.name], data[field.name], field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(f"{kind.__name__}.{field.name}")
    return kind(**given)


def _value(hint: Any, data: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    options = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if data is None and types.NoneType in options:
            return None
        return _value(next(o for o in options if o is not types.NoneType), data, name)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise TypeError(f"{name} wants a list")
        return tuple(_value(options[0], item, name) for item in data)
    if origin is typing.Literal:
        if data not in options:
            raise ValueError(f"{name} is {data!r}")
        return data
    if dataclasses.is_dataclass(hint):
        return value_from(typing.cast(type, hint), data)
    return _plain(hint, data, name)


def _plain(hint: Any, data: Any, name: str) -> Any:
    kind = typing.get_origin(hint) or hint
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise TypeError(f"{name} is {data!r}")
    return data
