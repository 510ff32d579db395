"""A draft without a model: what came last time after the same few tokens.

Answers that quote (edited code, summaries, extracted data, lists) repeat long runs of the prompt
or of themselves. Looking those up costs microseconds, so one model alone gains from drafting.
"""

from __future__ import annotations

from collections.abc import Sequence

from localllm.engine.draft.pace import Pace
from localllm.engine.tokenizer import Tokenizer

_INDEXED = (4, 3, 2)  # lengths of the runs that are looked up, in this order
_LONGEST = 16  # how far back a match is followed
# How likely each token after a match is right before any were verified, by the match's least
# length: a long quotation goes on, two words in a row may be chance.
_PRIOR = {16: 0.9, 8: 0.8, 4: 0.65, 3: 0.5, 2: 0.5}
_PRIOR_WEIGHT = 4.0  # as many verified tokens
_MEMORY = 200.0  # verified tokens after which older ones count half: texts differ


class LookupDrafter:
    """Remembers where each run of 2 to 4 tokens of the text ended last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._eog = tokenizer.eog_tokens
        self._ends: dict[tuple[int, ...], int] = {}
        self._known = min(_INDEXED)  # where the next run to be indexed ends
        self._length = min(_PRIOR)  # class of the match that the last draft came from
        self.caught_up_s = 0.0
        self._right = {n: p * _PRIOR_WEIGHT for n, p in _PRIOR.items()}
        self._tried = dict.fromkeys(_PRIOR, _PRIOR_WEIGHT)

    def begin(self, prompt: Sequence[int]) -> None:
        """A new prompt: what was learnt of the text before goes, the rates stay."""
        self.reset()
        self._learn(prompt)

    def propose(self, tokens: Sequence[int], n_max: int, pace: Pace) -> list[int]:
        """Tokens that may follow `tokens`, at most `n_max`."""
        self._learn(tokens)
        for n in _INDEXED:
            start = self._ends.get(tuple(tokens[-n:]))
            if start is not None:
                self._length = _matched(tokens, start, n)
                p = self._right[self._length] / self._tried[self._length]
                return self._following(tokens, start, n_max, p, pace)
        return []

    def _following(
        self, tokens: Sequence[int], start: int, n_max: int, p: float, pace: Pace
    ) -> list[int]:
        found: list[int] = []
        for i in range(n_max):
            # Past the end of the text the run goes on with itself: "ab ab" continues "ab ab".
            at = start + i
            token = tokens[at] if at < len(tokens) else found[at - len(tokens)]
            if token < 0 or not pace.takes(p):  # below 0: an image's place
                break
            found.append(token)
            if token in self._eog:
                break
        return found

    def verified(self, n_drafted: int, n_accepted: int) -> None:
        """The first `n_accepted` of the last draft were right, the next one was not."""
        n = self._length
        self._right[n] += n_accepted
        self._tried[n] += min(n_accepted + 1, n_drafted)
        if self._tried[n] > _MEMORY:
            self._right[n] /= 2
            self._tried[n] /= 2

    def _learn(self, tokens: Sequence[int]) -> None:
        """Index what came since; the last token's own runs are what is looked for."""
        for end in range(self._known, len(tokens)):
            for n in _INDEXED:
                if n <= end:
                    self._ends[tuple(tokens[end - n : end])] = end
        self._known = max(self._known, len(tokens))

    def abort(self) -> None:
        """Nothing of this takes long."""

    def arm(self) -> None:
        """See `abort`."""

    def reset(self) -> None:
        self._ends.clear()
        self._known = min(_INDEXED)

    def close(self) -> None:
        """Nothing to free."""


def _matched(tokens: Sequence[int], start: int, n: int) -> int:
    """The class of a match that ends before `start` and is at least `n` long."""
    while n < min(_LONGEST, start) and tokens[start - n - 1] == tokens[-n - 1]:
        n += 1
    return max(least for least in _PRIOR if least <= n)
