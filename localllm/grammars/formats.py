"""Formats of JSON Schema that a grammar holds a string to, as regular expressions.

Each takes a little less than its RFC does (no leap seconds, years from 1000, e-mail addresses
without quotes, URIs of less than the 2083 characters that pydantic allows), so that whatever is
written is right for every validator. A format that is not here is what JSON Schema says it is: an
annotation.
"""

from __future__ import annotations

from functools import cache

from localllm.grammars.patterns import Language
from localllm.grammars.regex import parse

_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    r"(?:[1-9]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    rf"|(?:[1-9]\d{_LEAP}|(?:[2468][048]|[13579][26])00)-02-29)"
)
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
_TIME = rf"{_CLOCK}(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,7}}"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H = r"[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join([
    rf"(?:{_H}:){{7}}{_H}",
    *(rf"(?:{_H}(?::{_H}){{0,{n}}})?::(?:{_H}(?::{_H}){{0,{5 - n - 1}}})?" for n in range(5)),
])  # fmt: skip
_URI_CHAR = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_URI = (
    rf"[a-z][a-z0-9+.-]{{0,15}}://{_HOST}(?::[1-9]\d{{0,3}})?(?:/{_URI_CHAR}{{0,50}}){{0,8}}"
    rf"(?:\?(?:{_URI_CHAR}|[/?]){{0,100}})?(?:#(?:{_URI_CHAR}|[/?]){{0,60}})?"
)
_N = r"\d{1,6}"
_YMD = rf"(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)"
_HMS = rf"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"

FORMATS: dict[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
            r"|[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}",
    "email": rf"{_ATOM}(?:\.{_ATOM}){{0,4}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "duration": rf"P(?:{_N}W|{_YMD}(?:{_HMS})?|{_HMS})",
    "json-pointer": r"(?:/(?:[^~/]|~[01])*)*",
}  # fmt: skip


@cache
def pattern(name: str) -> Language | None:
    """What a string of this format matches whole; None where the format is an annotation."""
    text = FORMATS.get(name)
    return None if text is None else parse(f"^(?:{text})$")
