"""How sure a weak member's answer is: signals from 0 to 1, and what they come to.

- logprobs: the geometric mean of the probabilities of its tokens.
- agreement: how much other samples of the same prompt say the same: the share with the same last
  number where the answer holds one, else the mean overlap of words (F1).
- p_true: asked whether its answer is right, the probability of yes against no
  (Kadavath et al. 2022, "Language Models (Mostly) Know What They Know").
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from localllm.engine.scheduler import TokenLogprobs
from localllm.route.pool.steps import CENTRE, Combiner

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
_WORD = re.compile(r"\w+")
_YES, _NO = ("yes", "true", "correct"), ("no", "false", "incorrect")
P_TRUE_QUESTION = (
    "A question was asked:\n{question}\n\nThis answer was proposed:\n{answer}\n\n"
    "Is the proposed answer correct? Reply with one word, Yes or No."
)


def token_confidence(logprobs: Sequence[TokenLogprobs]) -> float:
    """The geometric mean of the tokens' probabilities, 0 without any."""
    values = [max(one.chosen.logprob, -50.0) for one in logprobs]
    return math.exp(sum(values) / len(values)) if values else 0.0


def agreement(answer: str, others: Sequence[str]) -> float:
    """From 0 to 1; 0 without others."""
    if not others:
        return 0.0
    return sum(_alike(answer, other) for other in others) / len(others)


def p_true(first: TokenLogprobs, text_of: Mapping[int, str]) -> float:
    """P(yes) / (P(yes) + P(no)) over the likeliest first tokens; 0.5 where neither is there."""
    yes = no = 0.0
    for one in {first.chosen.token: first.chosen, **{t.token: t for t in first.top}}.values():
        word = text_of.get(one.token, "").strip().casefold()
        if word in _YES:
            yes += math.exp(one.logprob)
        elif word in _NO:
            no += math.exp(one.logprob)
    return yes / (yes + no) if yes + no > 0 else 0.5


def good_probability(signals: Mapping[str, float], combiner: Combiner) -> float:
    """P(the answer is good), by the signals that there are."""
    total = combiner.intercept
    for name, value in signals.items():
        total += getattr(combiner, name) * (value - CENTRE)
    return 1 / (1 + math.exp(-min(max(total, -60.0), 60.0)))


def _alike(one: str, other: str) -> float:
    numbers = [_NUMBER.findall(text) for text in (one, other)]
    if numbers[0] or numbers[1]:
        ends = [found[-1].rstrip(".,").replace(",", "") if found else "" for found in numbers]
        return float(ends[0] == ends[1])
    words = [Counter(_WORD.findall(text.casefold())) for text in (one, other)]
    shared = sum((words[0] & words[1]).values())
    total = sum(words[0].values()) + sum(words[1].values())
    return 2 * shared / total if total else float(one.strip() == other.strip())
