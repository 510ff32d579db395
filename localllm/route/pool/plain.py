"""Plain data from the text of a file that somebody else wrote."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from localllm.errors import UsageProblem

_LARGEST = 2**63  # TOML's own range; Python's hexadecimal numbers have none, and then break str()
# tomllib takes time and memory with the square of a key's dots: gigabytes for one line of 100 kB
_LONG_KEY = re.compile(
    r"""(?:^|[\[{,])[ \t]*+(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16}""", re.M
)


def read_plain(text: str, where: str) -> Any:
    """TOML, or JSON where the text begins with a brace. Raises UsageProblem naming `where`."""
    try:
        if text.lstrip().startswith("{"):
            data = json.loads(text)
        else:
            if _LONG_KEY.search(text) is not None:
                raise UsageProblem(f"{where} is no router: a key in it has more than 16 parts")
            data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageProblem(f"{where} is no TOML: {error}") from None
    if _has_absurd_number(data):
        raise UsageProblem(f"{where} is no router: a number in it is beyond 64 bits")
    return data


def _has_absurd_number(data: Any) -> bool:
    waiting = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, int) and not -_LARGEST <= one < _LARGEST:
            return True
    return False
