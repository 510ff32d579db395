"""Phone numbers, by libphonenumber's numbering plans (the package phonenumbers).

A stretch of digits that looks dialled is tried against the plans of Japan and the
English-speaking countries, or of any country where it begins with "+". Without the word
"phone" or the like before it, the groups must also be those the country writes: that is what
tells a number from a part number, a date or a price.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import label, named
from localllm.privacy.plain import Plain

_CANDIDATE = re.compile(
    r"(?<![0-9A-Za-z_+=#$¥€£])(?<![0-9][.\-/:])[+(]{0,2}[0-9]{1,15}"
    r"(?:(?: ?[().-] ?| )[0-9]{1,15}){0,6}(?![0-9])"
)
_TWO_DIGITS = re.compile("[0-9]{2}")
_NOT_DIGITS = str.maketrans("", "", "+() .-")  # all else that a candidate has
_GROUP_END = re.compile(r"[0-9](?=[^0-9]|\Z)")
_LABEL = label(
    r"(?<![a-z])(?:tele)?phone|(?<![a-z])(?:tel|mob|cell|mobile|fax|call|dial|ring|sms|whatsapp"
    r"|contact|reach)(?![a-z])|my (?:new )?number(?: is|'s)"
    r"|電話|携帯|でんわ|ファックス|ファクス|連絡先|(?<![a-z])tel[:：]?"
)
_EXTENSION = re.compile(r",? ?(?:x|ext\.?|extension|内線):? ?[0-9]{1,6}(?![0-9])", re.I)
_DECIMAL = re.compile(r"0\.[0-9]")
_AFTER = re.compile("[」)]?(?:まで|に|へ)、?(?:お?電話|ご?連絡|折り?返)")
_DIALLED = re.compile("00[1-9][0-9]{0,2}[ .-]")
_DATE = re.compile(r"\(?(?:19|20)[0-9]{2}[-./ ](?:0?[1-9]|1[0-2])[-./ ][0-3]?[0-9](?![0-9])")
_WITH_ZERO = ("JP", "GB", "AU", "NZ", "IE", "ZA", "IN")
_WITHOUT_ZERO = ("US",)
_SHORT = ("IN", "SG", "AU", "NZ", "IE")  # 5-5 and 4-4 digits, 1300 numbers: only after a label
# after so many numbers the plan's pattern alone is asked (a tenth of a millisecond less each),
# so that a megabyte of numbers takes seconds
_EXACT_AT_MOST = 2000


def phones(plain: Plain) -> Iterator[Finding]:
    text, done, tried = plain.text, 0, 0
    for start, stop in plain.stretches:
        position = max(done, start)
        while (found := _CANDIDATE.search(text, position, stop)) is not None:
            tried += 1
            finding = _first(plain, found, tried <= _EXACT_AT_MOST)
            if finding:
                yield finding
            position = finding.end if finding else _after_first_group(text, found)
        done = position


def _first(plain: Plain, found: re.Match[str], exact: bool) -> Finding | None:
    """ "090-1234-5678 03-1234-5678" is one stretch: its longest beginning that is a number."""
    candidate = found.group()
    if _digits(candidate) < 7 or _DATE.match(candidate) or not _TWO_DIGITS.search(candidate):
        return None
    name = named(plain, found.start(), _LABEL)
    if name is None and _AFTER.match(plain.text, found.end()):
        name = True
    if name is False:
        return None
    for end in _ends(plain.text, found):
        if finding := _judged(plain.text, found.start(), end, name, exact):
            return finding
    return None


def _after_first_group(text: str, found: re.Match[str]) -> int:
    first = _GROUP_END.search(text, found.start())
    return min(found.end(), first.end()) if first else found.end()


def _digits(text: str) -> int:
    return len(text.translate(_NOT_DIGITS))


def _ends(text: str, found: re.Match[str]) -> list[int]:
    ends = [m.end() for m in _GROUP_END.finditer(text, found.start(), found.end())]
    return [end for end in reversed(ends) if 7 <= _digits(text[found.start() : end]) <= 15]


def _judged(text: str, start: int, end: int, name: bool | None, exact: bool) -> Finding | None:
    """A finding for `text[start:end]`, or None where it is no phone number."""
    if text[start] == "(" and text.count("(", start, end) > text.count(")", start, end):
        start += 1  # of a remark in brackets: (090-1234-5678)
    candidate = text[start:end]
    if candidate.count("(") != candidate.count(")") or _DECIMAL.match(candidate):
        return None
    # "+81 (0)3": the zero in brackets is not dialled from abroad
    digits = re.sub("[^0-9]", "", re.sub(r"\(0\)", "", candidate))
    if len(set(digits)) <= 2 or digits in "01234567890123456789":
        return None
    # 0044 20 ..., 001-305-...
    dialled = bool(_DIALLED.match(candidate)) and not _in_a_row(text, start, end)
    if dialled or candidate.lstrip("(").startswith("+"):
        digits = digits.removeprefix("00") if dialled else digits
        return _international(candidate, digits, start, _with_extension(text, end), bool(name))
    grouped = len(digits) != len(candidate)
    if not name and not grouped:
        return _bare(digits, start, end)
    if not name and not set(candidate) & set("-().") and _in_a_row(text, start, end):
        return None
    without_zero = _WITHOUT_ZERO + (_SHORT if name else ())
    regions = _WITH_ZERO if digits.startswith("0") else without_zero
    for region in regions:
        if _in_plan(region, digits) and (not exact or _is_phone(candidate, region, bool(name))):
            why = f"a number of the plan of {region}" + ("" if name else ", in its groups")
            return Finding(
                Kind.PHONE, start, _with_extension(text, end), 0.95 if name else 0.75, why
            )
    if name and grouped and 9 <= len(digits) <= 12:
        why = "groups of digits after the word for a telephone, of no plan that is known"
        return Finding(Kind.PHONE, start, _with_extension(text, end), 0.6, why)
    return None


def _with_extension(text: str, end: int) -> int:
    """`end`, or the end of "x123", "ext. 123", "内線123" after it."""
    found = _EXTENSION.match(text, end, end + 24)
    return found.end() if found else end


def _in_a_row(text: str, start: int, end: int) -> bool:
    """Whether more numbers stand before or after it, with spaces only: a row of a table."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    return before.rstrip(" ")[-1:].isdigit() or after.lstrip(" ")[:1].isdigit()


def _international(
    candidate: str, digits: str, start: int, end: int, labelled: bool
) -> Finding | None:
    import phonenumbers

    try:
        number = phonenumbers.parse("+" + digits)
    except phonenumbers.NumberParseException:
        return None
    valid = phonenumbers.is_valid_number(number)
    # plans grow: a number of the right length that is written or called a number counts too
    if not valid and not (
        (labelled or len(digits) + 1 < len(candidate)) and phonenumbers.is_possible_number(number)
    ):
        return None
    why = f"a {'valid' if valid else 'possible'} number of country code +{number.country_code}"
    return Finding(Kind.PHONE, start, end, 0.95 if valid else 0.6, why)


def _bare(digits: str, start: int, end: int) -> Finding | None:
    """Digits without groups or label: only Japan's mobile numbers stand out."""
    if re.fullmatch("0[789]0[1-9][0-9]{7}", digits):
        return Finding(Kind.PHONE, start, end, 0.65, "eleven digits of a Japanese mobile number")
    return None


def _in_plan(region: str, digits: str) -> bool:
    """The plan's own pattern, before the far dearer parsing."""
    trunk = "1" if region == "US" else "0"
    optional = region == "US" and len(digits) != 11
    return _plan(region).fullmatch(digits if optional else digits.removeprefix(trunk)) is not None


@cache
def _plan(region: str) -> re.Pattern[str]:
    from phonenumbers import PhoneMetadata

    metadata = PhoneMetadata.metadata_for_region(region)
    description = None if metadata is None else metadata.general_desc
    pattern = None if description is None else description.national_number_pattern
    return re.compile(pattern or "(?!)")


def _is_phone(candidate: str, region: str, labelled: bool) -> bool:
    import phonenumbers

    if labelled:
        return phonenumbers.is_valid_number(phonenumbers.parse(candidate, region))
    strict = phonenumbers.Leniency.STRICT_GROUPING
    matches = phonenumbers.PhoneNumberMatcher(candidate, region, leniency=strict)
    return any(match.raw_string == candidate for match in matches)
