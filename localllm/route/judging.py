"""Whether an answer is good: against a reference, or by a model that is asked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_CHOICE = re.compile(r"(?:^|[^A-Za-z])\(?([A-E])\)?(?=[.):\s]|$)")
# "A" that begins a sentence is an article, unless what follows can follow no article
_ARTICLE = re.compile(r"(?:^|[.!?]\s+)A[^\S\n]+(?!(?:is|because|since|and|or|as)\b)(?=[a-z])", re.M)
_SCORE = re.compile(r"\b([1-5])\b(?:\s*/\s*5)?")
DEFAULT_RUBRIC = "correct, complete and clear"
_QUESTION = """You judge answers. Question:
{question}
{reference}
Answer to judge:
{answer}

How good is this answer? It should be {rubric}. Reply with one number from 1 (useless) to 5 \
(as good as it can be), and nothing else."""

Ask = Callable[[str], str]


@dataclass(frozen=True)
class Task:
    """A prompt to be labelled; `reference` is the right answer where there is one."""

    prompt: str
    reference: str | None = None
    domain: str = ""
    benchmark: str = ""


def exact(answer: str, reference: str) -> float:
    """1 or 0. A number is compared with the answer's last one, a letter of a choice with the first
    that the answer names, anything else must stand in it as it is, whatever the case."""
    wanted = _plain(reference)
    if (number := _value(wanted)) is not None:
        found = _NUMBER.findall(_plain(answer))
        return float(bool(found) and _value(found[-1].rstrip(",")) == number)
    if re.fullmatch(r"[a-e]", wanted):
        choice = _CHOICE.search(_ARTICLE.sub("\n", answer.strip()))
        return float(choice is not None and choice[1].casefold() == wanted)
    edges = rf"(?<!\w){re.escape(wanted)}(?!\w)"
    return float(bool(wanted) and re.search(edges, _plain(answer)) is not None)


def judged(task: Task, answer: str, ask: Ask, rubric: str = DEFAULT_RUBRIC) -> float | None:
    """By a model: its 1 to 5 as 0 to 1, None where it gave no such number."""
    reference = f"A right answer would be:\n{task.reference}\n" if task.reference else ""
    said = ask(
        _QUESTION.format(
            question=task.prompt, reference=reference, answer=answer or "(nothing)", rubric=rubric
        )
    )
    found = _SCORE.search(said)
    return None if found is None else (int(found[1]) - 1) / 4


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" .。")


def _value(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    return float(text.replace(",", ""))
