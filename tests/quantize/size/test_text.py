"""The contexts of a search and of its judgment."""

from __future__ import annotations

import types
from typing import Any

import pytest

from localllm.errors import UsageProblem
from localllm.quantize.size.text import SEARCH, Contexts, SomeText, contexts_of


class Numbers:
    """Each word of the text is a number: its own token."""

    bos, adds_bos = 0, True

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def numbered(n: int) -> SomeText:
    return SomeText("numbers", " ".join(str(i + 1) for i in range(n)), "")


TOKENIZER: Any = Numbers()


def test_contexts_are_spread_over_all_of_the_text() -> None:
    found = contexts_of(numbered(1000), TOKENIZER, Contexts(5, 20, 4))
    assert [chunk.tokens[1] for chunk in found] == [2, 202, 402, 602, 802]


@pytest.mark.parametrize("n", [100, 5000])
def test_a_context_is_scored_at_its_end_and_begins_as_the_model_wants(n: int) -> None:
    found = contexts_of(numbered(n), TOKENIZER, Contexts(5, 20, 4))
    for chunk in found:
        assert (len(chunk.tokens), chunk.tokens[0]) == (20, Numbers.bos)
        # what follows each scored position in the text
        scored = chunk.tokens[chunk.first :]
        assert chunk.targets == tuple(token + 1 for token in scored)[:4]
        assert len(chunk.targets) == 4


@pytest.mark.parametrize("n", [10, 30])
def test_a_text_that_gives_too_few_is_refused(n: int) -> None:
    with pytest.raises(UsageProblem, match="20"):
        contexts_of(numbered(n), TOKENIZER, Contexts(5, 20, 4))


def test_a_vocabulary_without_a_beginning_keeps_the_first_token() -> None:
    plain: Any = types.SimpleNamespace(bos=None, adds_bos=False, encode=Numbers().encode)
    found = contexts_of(numbered(5000), plain, SEARCH)
    assert found[0].tokens == tuple(range(1, SEARCH.n_ctx + 1))
