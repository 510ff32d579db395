"""Characters that are written as others: in JSON strings, HTML and URLs.

`json.dumps` of Python writes everything beyond ASCII as `\\uXXXX`, so the labels and numbers of a
Japanese document are digits of base 16 in it; line ends are an n before the next word, and the
quotes of a document within a document have backslashes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

LEVELS = 3  # of strings within strings that are looked through
ESCAPE = re.compile(
    r"(?P<run>\\++)(?:(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\++u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u(?P<unit>[0-9a-fA-F]{4})|(?P<short>[nrt\"'/])|)"
    r"|&#(?:[xX][0-9a-fA-F]{1,6}|[0-9]{1,7});"
    r"|(?P<bytes>(?:%[0-9a-fA-F]{2})++)"
)
_UNICODE = re.compile(r"u([0-9a-fA-F]{4})")
_SHORT = re.compile(r"(?<!\\)(\\++)[nrt\"'/]")
_MEANING = {"n": "\n", "r": "\n", "t": "\t"}


def levels(text: str) -> int:
    """How many strings within strings there are, by the backslashes: each level doubles them."""
    most = max((len(found[1]) for found in _SHORT.finditer(text)), default=0)
    return min(most.bit_length(), LEVELS)


def characters(found: re.Match[str], level: int) -> Iterator[tuple[str, int]]:
    """What a match of ESCAPE stands for once `level` strings are unpacked: characters, each with
    how many it is written with. What stands for none comes as it is written. `\\uXXXX` is
    the same character at every level."""
    text = found.group()
    if found["pair"]:
        units = b"".join(int(one, 16).to_bytes(2, "big") for one in _UNICODE.findall(text))
        yield units.decode("utf-16-be"), len(text)
    elif found["unit"] and not 0xD800 <= int(found["unit"], 16) < 0xE000:
        yield chr(int(found["unit"], 16)), len(text)
    elif found["short"] and level:
        whole, left = divmod(len(found["run"]), 1 << level)
        yield from [("\\", 1 << level)] * whole
        short = found["short"]
        yield (_MEANING.get(short, short) if left else short), left + 1
    elif found["bytes"]:
        yield from _of_url(text)
    elif text.startswith("&") and len(one := html.unescape(text)) == 1:
        yield one, len(text)
    else:
        yield from ((character, 1) for character in text)


def unescaped(text: str) -> str:
    """`text` with the characters that JSON writes as `\\uXXXX` themselves."""
    return ESCAPE.sub(
        lambda found: "".join(one for one, _ in characters(found, 0))
        if found["pair"] or found["unit"] else found.group(),
        text,
    )  # fmt: skip


def _of_url(text: str) -> Iterator[tuple[str, int]]:
    """Spaces, signs of numbers and what is beyond ASCII; other signs have a meaning of their own
    in a URL, and are left."""
    data = bytes.fromhex(text.replace("%", ""))
    at = 0
    while at < len(data):
        n = _length(data[at])
        try:
            one = data[at : at + n].decode()
        except UnicodeDecodeError:
            one = ""
        if n == 1 and one not in (" ", "+", "-", "\n"):
            one = ""
        if one:
            yield one, 3 * n
        else:
            n = 1
            yield from ((character, 1) for character in text[3 * at : 3 * at + 3])
        at += n


def _length(first: int) -> int:
    """Of a character in UTF-8 by its first byte."""
    return 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
