"""What people thought of answers, as something to learn from.

A vote says something of the two members only where it can:

- the weak member answered, and it was good: strong was not needed (1 and 1);
- the weak member answered, and it was bad: strong was needed (0 and 1). That the strong one would
  have been good is an assumption, the one that a router exists for;
- one member was said to be better than the one that answered: that one 1, the other 0;
- both answered, side by side: the better one 1, the other 0, both alike in a tie or where both were
  bad: this is the only vote that assumes nothing;
- anything else (the strong one was good, or bad) says nothing of the weak one, and is left out.

One source has one vote on an answer, and of all votes that count at most a quarter, or twenty where
that is more: a flood from one client teaches no more than the others together allow. The owner's
own count whole.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from localllm.registry.decisions import BOTH_BAD, TIE, Decided, Verdict
from localllm.route.contrast import Contrast

GOOD, BAD = "good", "bad"
INBOX = "owner inbox"  # the source of what a person's answers say
_MOST = 0.25  # of all votes that count, from one source
_FREE = 20  # so many count whatever the share
_HELD_OUT = 5  # one prompt in so many is kept to judge by


@dataclass(frozen=True)
class Votes:
    """`contrast` has one row a prompt that says something; `n_left_out` votes said nothing of the
    pair, `n_capped` were more than their source may have. `only_by` are the prompts that one source
    alone voted on, by source; not the owner's."""

    contrast: Contrast
    n_votes: int
    n_left_out: int
    n_capped: int
    n_sources: int
    only_by: Mapping[str, frozenset[str]]


def votes_of(decisions: Sequence[Decided], weak: str, strong: str) -> Votes:
    """Of decisions that were judged and whose prompt is kept."""
    given = [(d, v) for d in decisions if d.prompt for v in d.votes]
    kept, n_capped = _capped(given)
    prompts: list[str] = []
    qualities: list[tuple[float, float]] = []
    voters: dict[str, set[str]] = defaultdict(set)
    for decision, vote in kept:
        found = _meaning(decision, vote, weak, strong)
        if found is not None and decision.prompt is not None:
            prompts.append(decision.prompt)
            qualities.append(found)
            voters[decision.prompt].add(vote.source)
    values = np.array(qualities, dtype=np.float64).reshape(-1, 2)
    n = len(prompts)
    contrast = Contrast(tuple(prompts), values[:, 0], values[:, 1], ("",) * n, ("feedback",) * n)
    sources = {vote.source for _, vote in given}
    only_by: dict[str, set[str]] = defaultdict(set)
    for prompt, who in voters.items():
        source = next(iter(who))
        if len(who) == 1 and not _is_owner(source):
            only_by[source].add(prompt)
    alone = {source: frozenset(some) for source, some in only_by.items()}
    return Votes(contrast, len(given), len(kept) - n, n_capped, len(sources), alone)


def split_votes(contrast: Contrast) -> tuple[Contrast, Contrast]:
    """(to learn from, to judge by): a prompt is on the same side whenever it is asked."""
    out = np.array([_side(prompt) for prompt in contrast.prompts], dtype=np.bool_)
    return contrast.take(~out), contrast.take(out)


def _meaning(
    decision: Decided, vote: Verdict, weak: str, strong: str
) -> tuple[float, float] | None:
    answered = decision.member
    if decision.compared:
        return _compared(decision, vote, weak, strong)
    if vote.source == INBOX:  # a draft of weak that was sent as it is was as good as the person's
        return (1.0, 1.0) if vote.verdict == weak else None
    if vote.verdict == GOOD:
        return (1.0, 1.0) if answered == weak else None
    if vote.verdict == BAD:
        return (0.0, 1.0) if answered == weak else None
    better = vote.verdict
    if better == answered:
        return (1.0, 1.0) if answered == weak else None
    if {better, answered} == {weak, strong}:
        return (0.0, 1.0) if better == strong else (1.0, 0.0)
    if answered == weak:  # a person, or a third one, had to answer in its place
        return (0.0, 1.0)
    return None


def _compared(
    decision: Decided, vote: Verdict, weak: str, strong: str
) -> tuple[float, float] | None:
    """Both answered, so the vote says all there is."""
    if set(decision.compared) != {weak, strong}:
        return None
    known = {weak: (1.0, 0.0), strong: (0.0, 1.0), TIE: (1.0, 1.0), BOTH_BAD: (0.0, 0.0)}
    return known.get(vote.verdict)


def _capped(given: list[tuple[Decided, Verdict]]) -> tuple[list[tuple[Decided, Verdict]], int]:
    """No source has more than its share; which of its votes count is drawn by their decision."""
    by_source: dict[str, list[tuple[Decided, Verdict]]] = defaultdict(list)
    for one in given:
        by_source[one[1].source].append(one)
    shares = _shares({source: len(votes) for source, votes in by_source.items()})
    kept: list[tuple[Decided, Verdict]] = []
    for source, votes in by_source.items():
        if len(votes) > shares[source]:
            votes = sorted(votes, key=lambda v: _drawn(f"{source} {v[0].id}"))[: shares[source]]
        kept += votes
    kept.sort(key=lambda v: v[0].id)
    return kept, len(given) - len(kept)


def _shares(given: dict[str, int]) -> dict[str, int]:
    """How many votes of each source count. What one of two floods may have falls with the other:
    so until nothing falls any more, which each time is by a third or it is over."""
    counts = given
    while True:
        total = sum(counts.values())
        fewer = {
            # the command line is the owner's own, and nobody else's
            source: n if _is_owner(source)
            else min(n, max(_FREE, int((total - n) * _MOST / (1 - _MOST))))
            for source, n in counts.items()
        }  # fmt: skip
        if fewer == counts:
            return counts
        counts = fewer


def _is_owner(source: str) -> bool:
    return source.startswith("owner")


def _side(prompt: str) -> bool:
    return _drawn(prompt) % _HELD_OUT == 0


def _drawn(text: str) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big")
