"""Grammars that were read for a vocabulary, kept for the next request with the same text."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from functools import cached_property
from typing import Any

from localllm.engine.grammar import read_grammar
from localllm.engine.matching.positions import Positions
from localllm.engine.matching.stacks import Machine, Stacks
from localllm.engine.matching.vocabulary import Vocabulary, read_vocabulary
from localllm.engine.tokenizer import Tokenizer

_MOST_GRAMMARS = 16
_MOST_MASKS = 256  # of a grammar: 32 KiB each at 262k tokens
_MOST_SHARED = 100_000  # frames; a grammar with more is not handed to the next request


class Engaged:
    """A grammar at work on a vocabulary, for any number of answers; `lock` while it is asked.

    It does not hold the tokenizer, which would hold the model.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, text: str) -> None:
        self.lock = threading.Lock()
        self.vocabulary = vocabulary
        self.machine = Machine(Positions(read_grammar(text, tokenizer.token_id)))
        self._masked: deque[Stacks] = deque()

    @cached_property
    def classes(self) -> Any:
        """The class of each of the vocabulary's code points: int32."""
        import numpy as np

        edges = np.array(self.machine.positions.codes.edges, np.int64)
        found = np.searchsorted(edges, self.vocabulary.codes, side="right") - 1
        return found.astype(np.int32)

    @cached_property
    def written(self) -> Any:
        """Which tokens have a text at all: bool."""
        import numpy as np

        found = np.zeros(self.vocabulary.n_tokens, bool)
        for level in self.vocabulary.levels:
            found[level.token] = True
            found[[one.token for one in level.partial]] = True
        found[[one.token for one in self.vocabulary.root_partial]] = True
        return found

    def remember(self, stacks: Stacks, mask: bytes) -> None:
        if len(self._masked) == _MOST_MASKS:
            self._masked.popleft().mask = None
        stacks.mask = mask
        self._masked.append(stacks)

    def may_become(self, stacks: Stacks, codes: tuple[int, int]) -> bool:
        """Whether a character of these code points, `low` to `high`, fits."""
        opened, classes = self.machine.open(stacks), self.machine.positions.codes
        low, high = codes
        wanted = classes.within(low, high)
        sets = classes.sets
        if any(sets[at] & wanted for at, _ in opened.wide):
            return True
        return any(wanted >> one & 1 for one in opened.narrow)


class Desk:
    """Of one vocabulary."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._engaged: OrderedDict[str, Engaged] = OrderedDict()

    def engage(self, tokenizer: Tokenizer, text: str) -> Engaged:
        """The grammar of `text`. Raises UsageProblem, with the line, for what is none."""
        with self._lock:
            found = self._engaged.pop(text, None)
            if found is None or found.machine.n_kept > _MOST_SHARED:
                if self._vocabulary is None:
                    self._vocabulary = read_vocabulary(tokenizer)
                found = Engaged(tokenizer, self._vocabulary, text)
            self._engaged[text] = found
            if len(self._engaged) > _MOST_GRAMMARS:
                self._engaged.popitem(last=False)
            return found


_desks: weakref.WeakKeyDictionary[Tokenizer, Desk] = weakref.WeakKeyDictionary()
_desks_lock = threading.Lock()


def desk_of(tokenizer: Tokenizer) -> Desk:
    with _desks_lock:
        return _desks.setdefault(tokenizer, Desk())
