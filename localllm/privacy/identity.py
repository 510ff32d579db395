"""Passports and driving licences: machine-readable zones, and numbers after a label.

A passport's number alone is nine characters like any other; what can be checked is the
machine-readable zone (ICAO 9303: check digits of weights 7, 3, 1), Great Britain's driver
number (its form holds a name and a date) and Japan's licence number (a check digit).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import label, occurrences
from localllm.privacy.plain import Plain

# the second line of a passport: number, nationality, birth, sex, expiry, personal number
_MRZ = re.compile(
    r"(?<![A-Z0-9<])(?:P[A-Z<][A-Z]{3}[A-Z<]{39}\r?\n)?"
    r"(?P<number>[A-Z0-9<]{9})(?P<c1>[0-9])[A-Z<]{3}(?P<birth>[0-9]{6})(?P<c2>[0-9])[MFX<]"
    r"(?P<expiry>[0-9]{6})(?P<c3>[0-9])[A-Z0-9<]{14}[0-9<][0-9](?![A-Z0-9<])"
)
_FILLER = "[ _-]?(?:number|num|no\\.?|#)| of the holder|番号|の|[はが]|[:：#は=(\\s\"'「｢]|is|was"
_PASSPORT = re.compile(
    rf"(?:passport|旅券|パスポート)(?:{_FILLER}){{0,6}}\s{{0,2}}(?P<value>[a-z]{{0,2}}[0-9]{{6,9}}[a-z]?)"
    r"(?![a-z0-9])"
)
_LICENCE = re.compile(
    r"(?:driv(?:er|ing)(?:'?s)? ?licen[cs]e|licen[cs]e number|(?<![a-z])dl ?(?:no|number|#)"
    rf"|運転免許(?:証)?|免許証)(?:{_FILLER}){{0,6}}\s{{0,2}}"
    r"(?P<value>[a-z0-9](?:[a-z0-9]|[- ](?=[0-9])){4,17})(?![a-z0-9])"
)
_GREAT_BRITAIN = re.compile(
    r"(?<![A-Z0-9])[A-Z]{1,5}9{0,4}(?P<decade>[0-9])(?P<month>[0156][0-9])(?P<day>[0-3][0-9])[0-9]"
    r"[A-Z][A-Z9][0-9A-Z][A-Z]{2}(?:[ ]?[0-9]{2})?(?![A-Z0-9])",
    re.I,
)
_JAPAN = re.compile(r"(?<![0-9A-Za-z])(?<![0-9][.\-/])[0-9]{12}(?![0-9A-Za-z]|[.\-/][0-9])")
_JAPAN_LABEL = label("運転免許|免許証|免許の?番号|driver|driving|licen[cs]e|(?<![a-z])dl(?![a-z])")


def passports(plain: Plain) -> Iterator[Finding]:
    # the filler in a row is in no other text
    for found in _MRZ.finditer(plain.text) if "<<<<" in plain.text else ():
        fields = found.groupdict()
        if all(mrz_digit(fields[name]) == fields[check]
               for name,
               check in (("number", "c1"), ("birth", "c2"), ("expiry", "c3"))):  # fmt: skip
            why = "the machine-readable zone of a passport, check digits right"
            yield Finding(Kind.PASSPORT, found.start(), found.end(), 0.99, why)
    for found in _after(plain, _PASSPORT, ("passport", "旅券", "パスポート")):
        why = "the form of a passport number, right after its label"
        yield Finding(Kind.PASSPORT, *found.span("value"), 0.85, why)


def _after(
    plain: Plain, pattern: re.Pattern[str], words: tuple[str, ...]
) -> Iterator[re.Match[str]]:
    """Matches of a pattern that has one of the words near its beginning."""
    for word in words:
        for at in occurrences(plain.lower, word):
            found = pattern.search(plain.lower, max(0, at - 12), at + 90)
            if found and found.start() <= at:
                yield found


def mrz_digit(field: str) -> str:
    """The check digit of ICAO 9303 part 3, 4.9: weights 7, 3, 1, modulo 10; `<` counts 0."""
    values = (0 if c == "<" else int(c, 36) for c in field)
    return str(sum(v * (7, 3, 1)[n % 3] for n, v in enumerate(values)) % 10)


def licences(plain: Plain) -> Iterator[Finding]:
    for found in plain.numbers(_GREAT_BRITAIN):
        number = found.group()
        month, day = int(found["month"]) % 50, int(found["day"])
        if len(number.split(" ")[0]) in (16, 18) and 1 <= month <= 12 and 1 <= day <= 31:
            why = "a GB driver number: five places of name, a date, initials"
            yield Finding(Kind.DRIVING_LICENCE, found.start(), found.end(), 0.9, why)
    for found in plain.numbers(_JAPAN):
        right = japan_licence_digit(found.group()[:10]) == found.group()[10]
        if right and _JAPAN_LABEL.search(plain.before(found.start())):
            why = "Japan's licence number after its label, check digit right"
            yield Finding(Kind.DRIVING_LICENCE, found.start(), found.end(), 0.95, why)
    for found in _after(plain, _LICENCE, ("licence", "license", "dl", "免許")):
        value = found["value"].strip()
        if sum(c.isdigit() for c in value) < 4 or re.fullmatch("[0-9]{12}", value):
            continue  # a word, or a Japanese number, which has been checked above
        start = found.start("value")
        why = "letters and digits right after the label of a driving licence"
        yield Finding(Kind.DRIVING_LICENCE, start, start + len(value), 0.75, why)


def japan_licence_digit(digits: str) -> str:
    """The eleventh digit: weights 5 4 3 2 7 6 5 4 3 2 over ten, modulo 11, as the prefectures'
    police use it (10 and 11 become 0 and 1)."""
    total = sum(w * int(c) for w, c in zip((5, 4, 3, 2, 7, 6, 5, 4, 3, 2), digits, strict=True))
    return str((11 - total % 11) % 10)
