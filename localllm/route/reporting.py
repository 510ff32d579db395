"""What a router did with the time: who answered, what it cost and saved, what people thought, and
whether what is asked has moved away from what it was trained on."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from localllm.registry import Registry
from localllm.registry.decisions import Decided, Decisions
from localllm.route.contrast import Floats
from localllm.route.learned import open_tested
from localllm.route.opening import OpenRouter
from localllm.route.pool.member import cost_of
from localllm.route.teaching import held_out_probabilities
from localllm.route.text.cues import read, script
from localllm.route.text.languages import script_named
from localllm.route.voting import GOOD, INBOX

_BINS = 10
MIN_DRIFT = 50  # prompts, below which a distribution says nothing
# The usual reading of the population stability index
MOVED, SHIFTED = 0.1, 0.25


@dataclass(frozen=True)
class Period:
    """`saved` is what the strong member would have cost for as many tokens, less what it did cost;
    None where costs or tokens are not known. `quality` is the share of good among good and bad
    votes."""

    begins_at: float
    n: int
    members: Mapping[str, int]
    strong_share: float | None
    cost: float | None
    saved: float | None
    n_good: int
    n_bad: int
    quality: float | None
    n_handed_on: int  # a member failed and the next one was asked
    n_unanswered: int
    n_guarded: int  # the privacy guard found something
    n_compared: int = 0  # two answers side by side: in nothing else here but `cost`
    preferred: Mapping[str, int] = field(default_factory=dict)  # members, "tie", "both-bad"


@dataclass(frozen=True)
class Drift:
    """Population stability indices of recent prompts against those that trained the router: of
    predicted probabilities, lengths and scripts. Under 0.1 nothing moved, over 0.25 it did."""

    n: int
    probability: float
    length: float
    script: float
    verdict: str  # "stable", "moved", "shifted"


@dataclass(frozen=True)
class Report:
    router: str
    version: int
    cost_unit: str
    strong: str | None
    total: Period
    periods: tuple[Period, ...]
    drift: Drift | None
    why_no_drift: str | None


def report(
    registry: Registry, opened: OpenRouter, *, since: float, every_s: float = 86_400.0
) -> Report:
    """Of decisions from `since` on (seconds since the epoch), in periods of `every_s`."""
    decisions = Decisions(registry).of(opened.name, since=since)
    strong = opened.spec.pair[1] if opened.spec.pair else None
    groups: dict[float, list[Decided]] = {}
    for one in decisions:
        groups.setdefault(_begin(one.made_at, every_s), []).append(one)
    periods = tuple(_period(begin, groups[begin], opened) for begin in sorted(groups))
    total = _period(min(groups, default=since), decisions, opened)
    drift, why = _drift(opened, [
        one.prompt for one in decisions if one.prompt and not one.compared
    ])  # fmt: skip
    return Report(
        opened.name, opened.version.number, opened.spec.cost_unit, strong, total, periods, drift,
        why,
    )  # fmt: skip


def stability(expected: Floats, found: Floats) -> float:
    """The population stability index over deciles of `expected`: sum of (f - e) ln(f / e).
    Empty bins count as half a prompt."""
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, _BINS + 1)[1:-1]))
    shares = [
        np.maximum(np.bincount(np.searchsorted(edges, v, side="right"), minlength=len(edges) + 1),
                   0.5) / len(v)
        for v in (expected, found)
    ]  # fmt: skip
    return _index(shares[0], shares[1])


def _index(expected: Floats, found: Floats) -> float:
    return float(np.sum((found - expected) * np.log(found / expected)))


def _period(begin: float, decisions: Sequence[Decided], opened: OpenRouter) -> Period:
    compared = [one for one in decisions if one.compared]
    decisions = [one for one in decisions if not one.compared]
    answered = [one for one in decisions if one.member]
    members = Counter(one.member for one in answered)
    pair = opened.spec.pair
    costs = [one.cost for one in answered if one.cost is not None]
    known = bool(costs) and len(costs) == len(answered)
    n_good, n_bad = _good_and_bad(answered)
    saved: float | None = None
    if known and pair is not None:
        each = [_strong_cost(one, opened, pair[1]) for one in answered]
        saved = sum(each) - sum(costs) if all(math.isfinite(c) for c in each) else None
    preferred = Counter(v.verdict for one in compared for v in one.votes)
    return Period(
        begin, len(decisions), dict(members.most_common()),
        members[pair[1]] / len(answered) if pair is not None and answered else None,
        sum(costs) + _beside(compared) if known else None, saved, n_good, n_bad,
        n_good / (n_good + n_bad) if n_good + n_bad else None,
        sum(1 for one in answered if one.data.get("failures")), len(decisions) - len(answered),
        sum(1 for one in decisions if one.data.get("guard", {}).get("fired")),
        len(compared), dict(preferred.most_common()),
    )  # fmt: skip


def _good_and_bad(decisions: Sequence[Decided]) -> tuple[int, int]:
    """A vote that names a member says that its answer would be better, or that this one's was
    good; what a person made of a draft says nothing of the person's answer."""
    votes = [(one.member, v) for one in decisions for v in one.votes if v.source != INBOX]
    n_good = sum(1 for member, vote in votes if vote.verdict in (GOOD, member))
    return n_good, len(votes) - n_good


def _beside(compared: Sequence[Decided]) -> float:
    """What comparisons cost, as far as it is known."""
    return sum(one.cost for one in compared if one.cost is not None)


def _strong_cost(one: Decided, opened: OpenRouter, strong: str) -> float:
    """For as many tokens as the answer had; NaN where they were not kept. What a cascade spent on
    the weak member before it asked the strong one is not the strong one's."""
    if one.member == strong and one.cost is not None and not one.data.get("escalated"):
        return one.cost
    n_prompt, n_answer = (one.data.get(f"{what}_tokens") for what in ("prompt", "completion"))
    if not (isinstance(n_prompt, int) and isinstance(n_answer, int)):
        return math.nan
    spec = opened.priced
    return cost_of(spec.member(strong), spec.cost_unit, n_prompt, n_answer)


def _drift(opened: OpenRouter, prompts: Sequence[str]) -> tuple[Drift | None, str | None]:
    tested = None if opened.version.learned is None else open_tested(opened.version.learned)
    if opened.spec.predictor is None:
        return None, f"the step {opened.spec.last.use} does not go by the prompt's words"
    if tested is None or opened.router is None:
        return None, "the router was not trained"
    if len(prompts) < MIN_DRIFT:
        return None, f"{len(prompts)} prompts are kept; it takes {MIN_DRIFT}"
    probability = stability(
        held_out_probabilities(tested, opened.router.calibration),
        opened.router.probabilities(prompts),
    )
    lengths = np.array([float(len(prompt)) for prompt in prompts])
    length = stability(tested.chars.astype(np.float64), lengths)
    scripts = _scripts(
        [script_named(one) for one in tested.languages],
        [script(read(prompt).question) for prompt in prompts],
    )
    worst = max(probability, length, scripts)
    verdict = "shifted" if worst > SHIFTED else "moved" if worst > MOVED else "stable"
    return Drift(len(prompts), probability, length, scripts, verdict), None


def _scripts(expected: Sequence[str], found: Sequence[str]) -> float:
    names = sorted({*expected, *found})
    shares = [
        np.array([max(some.count(name), 0.5) for name in names]) / len(some)
        for some in (list(expected), list(found))
    ]
    return _index(shares[0], shares[1])


def _begin(at: float, every_s: float) -> float:
    """The local midnight, or whatever multiple of `every_s` after it, at or before `at`."""
    day = time.localtime(at)
    midnight = time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1))
    if every_s >= 86_400:
        days = int(every_s // 86_400)
        return midnight - ((day.tm_yday - 1) % days) * 86_400
    return midnight + (at - midnight) // every_s * every_s
