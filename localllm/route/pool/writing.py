"""A router's description as TOML that a person can read and change, and `reading` reads back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from localllm.privacy import Policy
from localllm.route.pool.member import Member
from localllm.route.pool.reading import SCHEMA
from localllm.route.pool.spec import RouterSpec

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(spec: RouterSpec, made: Mapping[str, Any] | None = None) -> str:
    """`made` is written as it is, under that name. `parse_spec` of the text gives `spec` again."""
    data = as_data(spec)
    if made:
        data["made"] = dict(made)
    return "".join(f"{line}\n" for line in _table(data, ()))


def as_data(spec: RouterSpec) -> dict[str, Any]:
    """Plain data: what differs from the defaults, and who is in it."""
    data = {"schema": SCHEMA, **_changed(spec)}
    data["members"] = [_member(one) for one in spec.members]
    data["steps"] = [{"use": step.use, **_changed(step)} for step in spec.steps]
    if spec.privacy != Policy():
        data["privacy"] = spec.privacy.data()
    else:
        data.pop("privacy", None)
    return data


def _member(member: Member) -> dict[str, Any]:
    rest = _changed(member)
    for name in ("name", "kind", "ref"):
        rest.pop(name, None)
    who: dict[str, Any] = {"human": True} if member.kind == "human" else {member.kind: member.ref}
    return {"name": member.name, **who, **rest}


def _changed(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(value):
        own = getattr(value, field.name)
        if own is None or own == _default(field):
            continue
        found[field.name] = _data(own)
    return found


def _data(value: Any) -> Any:
    if is_dataclass(value):
        return _changed(value)
    if isinstance(value, tuple):
        return [_data(one) for one in value]
    return value


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING


def _table(data: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in data.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in data.items():
        inside = (*path, key)
        name = ".".join(map(_key, inside))
        if isinstance(value, Mapping):
            yield ""
            yield f"[{name}]"
            yield from _table(value, inside)
        elif _is_tables(value):
            for one in value:
                yield ""
                yield f"[[{name}]]"
                yield from _table(one, inside)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)  # "0.5", "1e-05": both are TOML; specs hold no NaN
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    """A basic string: JSON's, but for one control character that JSON leaves as it is."""
    written = json.dumps(text.encode("utf-8", "replace").decode("utf-8"), ensure_ascii=False)
    return written.replace("\x7f", "\\u007f")
