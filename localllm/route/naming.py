"""What names a router: `router:NAME`, `router/NAME`, and `router/NAME@0.4`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from localllm.errors import UsageProblem

PREFIXES = ("router:", "router/")


@dataclass(frozen=True)
class Named:
    """`router/NAME@0.4`: which router, and which threshold in place of its own."""

    name: str
    threshold: float | None = None


def is_router(text: str) -> bool:
    """Whether a model's name means a router."""
    return text.casefold().startswith(PREFIXES)


def parse_named(text: str) -> Named:
    """`NAME[@THRESHOLD]`, with or without `router:` or `router/`. Raises UsageProblem."""
    bare = text
    for prefix in PREFIXES:
        if bare.casefold().startswith(prefix):
            bare = bare[len(prefix) :]
            break
    name, at, number = bare.partition("@")
    if not at:
        return Named(name)
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise UsageProblem(f"{number[:40]!r} is no threshold from 0 to 1", f"router/{name}@0.4")
    return Named(name, threshold)
