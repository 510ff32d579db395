"""Shares and times as people type them: "5%", "0.05", "90s", "15m"."""

from __future__ import annotations

import math
import re

from localllm.errors import UsageProblem

_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) *(%?)")
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+) *(s|min|m|h|)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def share_of(text: str, option: str) -> float:
    """ "5%" and "0.05" are 0.05. A bare number of 1 and more is refused: 5 could mean either."""
    found = _SHARE.fullmatch(text.strip())
    if found is None:
        raise UsageProblem(f"{option} {text!r} is no share", f"{option} 5%")
    value = float(found[1])
    if found[2]:
        return value / 100
    if value >= 1:
        raise UsageProblem(
            f"{option} {text!r} is {value:.0%}: say what you mean", f"{option} {found[1]}%"
        )
    return value


def seconds_of(text: str, option: str) -> float:
    """ "90", "90s", "15m", "1h"; above 0."""
    found = _TIME.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else math.nan
    if not seconds > 0:
        raise UsageProblem(f"{option} {text!r} is no time", f"{option} 15m")
    return seconds
