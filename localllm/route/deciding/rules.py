"""Rules: the first that holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from localllm.errors import MissingExtra, UsageProblem
from localllm.route.deciding.asked import Asked
from localllm.route.pool.steps import DAYS, Rule, hours_of
from localllm.route.text.cues import read
from localllm.route.text.languages import is_in

# A pattern from elsewhere may be made to take for ever: the library stops it, and all of them
_PATTERN_S, _ALL_PATTERNS_S = 0.1, 0.5

_NAMED = 5  # of the rules that were stopped

Spent = Callable[[float], float]  # since when -> how much


@dataclass(frozen=True)
class RuleFired:
    """`why` names what held."""

    rule: Rule
    why: str


@dataclass
class Stopped:
    """The rules whose patterns took too long in one decision, and so did not hold."""

    rules: list[str] = field(default_factory=list)
    left_s: float = _ALL_PATTERNS_S

    def __str__(self) -> str:
        """ "; stopped, for it took too long: the pattern of a, b"; empty where none was."""
        if not self.rules:
            return ""
        names = ", ".join(self.rules[:_NAMED]) + (" ..." if len(self.rules) > _NAMED else "")
        return f"; stopped, for it took too long: the pattern of {names}"

    def found(self, rule: Rule, text: str) -> bool:
        """Whether the rule's pattern is in the text."""
        began = time.monotonic()
        try:
            if self.left_s <= 0:
                raise TimeoutError
            limit = min(_PATTERN_S, self.left_s)
            return compiled(rule.pattern or "").search(text, timeout=limit) is not None
        except TimeoutError:
            self.rules.append(rule.name or f"the rule to {rule.to}")
            return False
        finally:
            self.left_s -= time.monotonic() - began


def first_rule(
    rules: tuple[Rule, ...], asked: Asked, spent: Spent, stopped: Stopped | None = None
) -> RuleFired | None:
    """`stopped` is told which patterns took too long. Raises UsageProblem for a pattern that is
    none, MissingExtra."""
    stopped = stopped or Stopped()
    for rule in rules:
        why = _holds(rule, asked, spent, stopped)
        if why is not None:
            return RuleFired(rule, ", ".join(why) or "no condition")
    return None


def check_rule(rule: Rule) -> None:
    """Raises UsageProblem for a pattern that cannot be used."""
    if rule.pattern is not None:
        compiled(rule.pattern)


def _holds(rule: Rule, asked: Asked, spent: Spent, stopped: Stopped) -> list[str] | None:
    """What held, None where something did not. The dear ones come last."""
    why: list[str] = []
    for name, wanted, found in (
        ("attachments", rule.attachments, asked.images > 0 or asked.files > 0),
        ("tools", rule.tools, asked.tools),
        ("images", rule.images, asked.images > 0),
    ):
        if wanted is not None:
            if wanted is not found:
                return None
            why.append(f"{name if wanted else f'no {name}'}")
    if rule.min_chars is not None or rule.max_chars is not None:
        low = 0 if rule.min_chars is None else rule.min_chars
        high = asked.chars if rule.max_chars is None else rule.max_chars
        if not low <= asked.chars <= high:
            return None
        why.append(f"{asked.chars} characters")
    if not _time_holds(rule, asked.at, why):
        return None
    if rule.languages:
        found_language = is_in(asked.prompt, rule.languages)
        if found_language is None:
            return None
        why.append(found_language)
    if not _text_holds(rule, asked.prompt, why, stopped):
        return None
    if rule.spent_over is not None:
        amount = spent(begin_of(rule.per, asked.at))
        if amount < rule.spent_over:
            return None
        why.append(f"spent {amount:.4g} this {rule.per}")
    return why


def _time_holds(rule: Rule, at: float, why: list[str]) -> bool:
    local = time.localtime(at)
    if rule.days:
        day = DAYS[local.tm_wday]
        if day not in rule.days:
            return False
        why.append(day)
    if rule.hours is not None:
        first, last = hours_of(rule.hours)
        now = local.tm_hour * 60 + local.tm_min
        inside = first <= now < last if first <= last else now >= first or now < last
        if not inside:
            return False
        why.append(rule.hours)
    return True


def _text_holds(rule: Rule, prompt: str, why: list[str], stopped: Stopped) -> bool:
    if not rule.words and rule.pattern is None:
        return True
    text = read(prompt).text  # of a megabyte its two ends
    if rule.words:
        folded = text.casefold()
        word = next((w for w in rule.words if _occurs(w.casefold(), folded)), None)
        if word is None:
            return False
        why.append(f"the word {word!r}")
    if rule.pattern is not None:
        if not stopped.found(rule, text):
            return False
        why.append(f"the pattern {rule.pattern!r}")
    return True


def _occurs(word: str, text: str) -> bool:
    """As a word of its own, where its script has words with something between them."""
    at = text.find(word)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(word) : at + len(word) + 1]
        if not word.isascii() or not (before.isalnum() or after.isalnum()):
            return True
        at = text.find(word, at + 1)
    return False


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """By the library `regex`, whose searches can be given a time. Raises UsageProblem."""
    try:
        import regex  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "rules with patterns need a library that is not installed",
            'pip install "localllm[route]"',
        ) from error
    try:
        return regex.compile(pattern, regex.IGNORECASE | regex.V0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UsageProblem(f"{pattern[:80]!r} is no pattern: {error}") from None


def begin_of(period: str, at: float) -> float:
    """When the hour, day or month of `at` began, in local time."""
    local = time.localtime(at)
    if period == "hour":
        return at - local.tm_min * 60 - local.tm_sec
    day = 1 if period == "month" else local.tm_mday
    return time.mktime((local.tm_year, local.tm_mon, day, 0, 0, 0, 0, 0, -1))
