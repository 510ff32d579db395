"""Dates of birth: a date, and beside it the words that make it one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import occurrences
from localllm.privacy.plain import Plain

_BEFORE = (
    "born", "dob", "d.o.b", "date of birth", "birth date", "birthdate", "birth_date", "birthday",
    "date_of_birth", "dateofbirth", "生年月日", "誕生日", "出生",
)  # fmt: skip
_AFTER = re.compile(r"[^0-9]{0,3}(?:生(?:まれ)?(?!産|成|年月日)|\((?:dob|born)\))")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<word>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DAY = r"(?P<d>[0-3]?[0-9])(?:st|nd|rd|th)?"
_YEAR = r"(?P<y>(?:18|19|20)[0-9]{2})"
# era, and the year before its first
_ERAS = {"明治": 1867, "大正": 1911, "昭和": 1925, "平成": 1988, "令和": 2018,
         "m": 1867, "t": 1911, "s": 1925, "h": 1988, "r": 2018}  # fmt: skip
_FORMS = tuple(re.compile(form) for form in (
    rf"{_YEAR}(?P<sep>[-/. ])(?P<m>[01]?[0-9])(?P=sep){_DAY}(?![0-9])",
    rf"{_YEAR} ?年 ?(?P<m>[01]?[0-9]) ?月 ?{_DAY} ?日?",
    r"(?P<era>明治|大正|昭和|平成|令和|[mtshr])\.? ?(?P<ey>[0-9]{1,2}|元) ?[年./-] ?"
    r"(?P<m>[01]?[0-9]) ?[月./-] ?(?P<d>[0-3]?[0-9])(?: ?日|(?![0-9]))",
    rf"(?P<m>[01]?[0-9])(?P<sep>[-/. ]){_DAY}(?P=sep)(?P<y>(?:18|19|20)?[0-9]{{2}})(?![0-9])",
    rf"{_DAY}(?P<sep>[-/. ])(?P<m>[01]?[0-9])(?P=sep)(?P<y>(?:18|19|20)?[0-9]{{2}})(?![0-9])",
    rf"{_MONTH} {{0,2}}{_DAY},? {{1,2}}{_YEAR}",
    rf"{_DAY} (?:of )?{_MONTH},? {_YEAR}",
    rf"{_DAY}-{_MONTH}-{_YEAR}",
    r"(?P<y>(?:19|20)[0-9]{2})(?P<m>[01][0-9])(?P<d>[0-3][0-9])(?![0-9])",
))  # fmt: skip
_REACH = 28  # how far after a label its date may begin


def birth_dates(plain: Plain) -> Iterator[Finding]:
    text = plain.lower
    for literal in _BEFORE:
        for at in occurrences(text, literal):
            if at and literal.isascii() and text[at - 1].isascii() and text[at - 1].isalpha():
                continue  # airborne, stubborn, newborn
            yield from _first_date(text, at + len(literal), f'a date after "{literal}"')
    for at in occurrences(text, "生"):
        if not text.startswith("生年月日", at):
            yield from _date_that_ends(text, at)
    for literal in ("(dob)", "(born)"):
        for at in occurrences(text, literal):
            yield from _date_that_ends(text, at)


def _first_date(text: str, start: int, why: str) -> Iterator[Finding]:
    for at in range(start, min(start + _REACH, len(text))):
        if text[at] == "\n" and at > start + 2:
            return
        if end := _date_end(text, at):
            yield Finding(Kind.BIRTH_DATE, at, end, 0.95, why)
            return


def _date_that_ends(text: str, at: int) -> Iterator[Finding]:
    """昭和55年3月5日生まれ: the word stands after the date."""
    if not _AFTER.match(text, at):
        return
    for start in range(max(0, at - 24), at - 5):
        end = _date_end(text, start)
        if end and not text[end:at].strip(" (に"):
            yield Finding(Kind.BIRTH_DATE, start, end, 0.9, "a date before the word for born")
            return


def _date_end(text: str, at: int) -> int:
    """Where a date of a living person that begins at `at` ends; 0 where there is none."""
    first = text[at]
    if not (first.isdigit() or first in "明大昭平令mtshrjfasond"):
        return 0
    if at and text[at - 1].isascii() and text[at - 1].isalnum():
        return 0
    for form in _FORMS:
        found = form.match(text, at, at + 40)
        if found and _is_date(found):
            return found.end()
    return 0


def _is_date(found: re.Match[str]) -> bool:
    parts = found.groupdict()
    if parts.get("era"):
        year = _ERAS[parts["era"]] + (1 if parts["ey"] == "元" else int(parts["ey"]))
    else:
        year = int(parts["y"])
        year += 1900 if year < 100 else 0  # a leap day of 2000 would be lost, of 1900 is none
    month = _MONTHS.index(parts["word"]) + 1 if parts.get("word") else int(parts["m"])
    try:
        date(year, month, int(parts["d"]))
    except ValueError:
        return False
    return 1890 <= year <= 2099
