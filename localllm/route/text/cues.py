"""Cues of many-step reasoning in a prompt: how much there is to read, to keep apart, to relate.

Every cue is a logarithm of a count, so that a prompt ten times as long is one step up and not
ten. Their mean, each in standard deviations of the training prompts, is the `load` of a prompt:
the one signal that this package takes to hold for prompts unlike any that it was trained on
(see localllm.route.predictors.lexical). Nothing in it is fitted to outcomes.

The words are English; in another language the cues of length, numbers and punctuation remain.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

READ_CHARS = 24_000  # of a longer prompt: its first two thirds and its last third of this

_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.?!。？！]\s*")
# "\nA. ", "\nB) ", "\n(C) ": the answers of a multiple-choice question. Two in order are enough
_CHOICE = re.compile(r"\n[ \t]*\(?([A-Ea-e])[.):][ \t]")

_RELATIONS: dict[str, re.Pattern[str]] = {
    "comparisons": re.compile(
        r"\b(?:more|less|fewer|than|greater|most|least|twice|half|double|triple|times|older|"
        r"younger|longer|taller)\b",
        re.I,
    ),
    "ratios": re.compile(
        r"\b(?:half|third|quarter|fourth|fifth|percent|percentage|ratio|fraction|rate|average|"
        r"mean)\b|%|\d/\d",
        re.I,
    ),
    "order": re.compile(
        r"\b(?:first|second|third|next|before|after|last|then|finally|initially|begin\w*|"
        r"start\w*)\b",
        re.I,
    ),
    "conditions": re.compile(r"\b(?:if|then|unless|when|suppose|assume|given|otherwise)\b", re.I),
    "totals": re.compile(
        r"\b(?:left|remain\w*|rest|total|altogether|in all|sum|combined|still)\b", re.I
    ),
}

CUES = (
    "words",
    "characters",
    "words_per_sentence",
    "commas",
    "numbers",
    "different_numbers",
    *_RELATIONS,
)


@dataclass(frozen=True)
class Reading:
    """A prompt as the predictors see it."""

    text: str  # what is read of it: all, or its two ends
    question: str  # without the answers to choose from
    choices: bool  # it lists answers to choose from

    @property
    def form(self) -> str:
        """ "choices" or "free", and the script it is written in, "choices/latin"."""
        return f"{'choices' if self.choices else 'free'}/{script(self.question)}"


def read(prompt: str) -> Reading:
    """Cuts a very long prompt to its ends, and a multiple-choice question to its question."""
    text = prompt
    if len(prompt) > READ_CHARS:
        head = READ_CHARS * 2 // 3
        text = f"{prompt[:head]}\n{prompt[-(READ_CHARS - head) :]}"
    marks = list(_CHOICE.finditer(text))
    letters = [mark[1].upper() for mark in marks]
    for i in range(len(marks) - 1):
        if letters[i] == "A" and letters[i + 1] == "B":
            return Reading(text, text[: marks[i].start()], True)
    return Reading(text, text, False)


def cues(reading: Reading) -> list[float]:
    """One number a name in CUES, each log(1 + count)."""
    question = reading.question
    words = _WORD.findall(question)
    numbers = _NUMBER.findall(question)
    n_sentences = max(len(_SENTENCE_END.findall(question)), 1)
    counts = [
        len(words),
        len(question),
        len(words) / n_sentences,
        question.count(",") + question.count("、"),
        len(numbers),
        len(set(numbers)),
        *(sum(1 for _ in pattern.finditer(question)) for pattern in _RELATIONS.values()),
    ]
    return [math.log1p(count) for count in counts]


# First code point, last, name. Scripts only as far as a router must tell them apart: what it
# learned on one of them says little of another.
_SCRIPTS = (
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x06FF, "arabic"),
    (0x0900, 0x0DFF, "indic"),
    (0x0E00, 0x0E7F, "thai"),
    (0x3040, 0x30FF, "japanese"),
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
)
SCRIPTS = ("latin", *(name for _, _, name in _SCRIPTS), "other")
_SCRIPT_CHARS = 2_000


def script(text: str) -> str:
    """The script of most letters: "latin" (also where there are none), "japanese", "han"...

    A text with a twentieth of kana is Japanese, however much Han it holds.
    """
    beginning = text[:_SCRIPT_CHARS]
    if beginning.isascii():
        return "latin"
    counts: dict[str, int] = {}
    for character in beginning:
        if character.isalpha():
            name = _script_of(ord(character))
            counts[name] = counts.get(name, 0) + 1
    if not counts:
        return "latin"
    if counts.get("japanese", 0) * 20 >= sum(counts.values()):
        return "japanese"
    return max(sorted(counts), key=lambda name: counts[name])


def _script_of(point: int) -> str:
    if point < 0x0370:
        return "latin"
    for first, last, name in _SCRIPTS:
        if first <= point <= last:
            return name
    return "other"
