"""The contexts of a search: what is chosen with shares no token with what is searched with."""

from __future__ import annotations

import types
from typing import Any

import pytest

from localllm.errors import UsageProblem
from localllm.quantize.size_text import (
    CHOOSE,
    SEARCH,
    SETS,
    Contexts,
    SomeText,
    Texts,
    apart,
    contexts_for,
    contexts_of,
)


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


@pytest.mark.parametrize("n", [768, 5000, 40_000])
def test_two_shapes_of_one_text_share_no_token(n: int) -> None:
    search, choose = apart(numbered(n), TOKENIZER, SEARCH, CHOOSE)
    for chunks, wanted in ((search, SEARCH), (choose, CHOOSE)):
        assert 2 <= len(chunks) <= wanted.n
        for chunk in chunks:
            assert len(chunk.tokens) == wanted.n_ctx
            assert chunk.tokens[0] == Numbers.bos
            # what follows each scored position in the text
            scored = chunk.tokens[chunk.first :]
            assert chunk.targets == tuple(token + 1 for token in scored)[: wanted.n_scored]
            assert len(chunk.targets) == wanted.n_scored
    mine, theirs = ({t for chunk in chunks for t in chunk.tokens} - {0} for chunks in
                    (search, choose))  # fmt: skip
    assert not mine & theirs
    if n == 40_000:
        assert (len(search), len(choose)) == (SEARCH.n, CHOOSE.n)
        assert max(mine) > 0.9 * n  # to the text's end
        assert max(theirs) > 0.9 * n


@pytest.mark.parametrize("n", [100, 700])
def test_a_text_that_gives_too_few_is_refused(n: int) -> None:
    with pytest.raises(UsageProblem, match=r"768|at least 384"):
        apart(numbered(n), TOKENIZER, SEARCH, CHOOSE)


def test_a_vocabulary_without_a_beginning_keeps_the_first_token() -> None:
    plain: Any = types.SimpleNamespace(bos=None, adds_bos=False, encode=Numbers().encode)
    search, _ = apart(numbered(5000), plain, SEARCH, CHOOSE)
    assert search[0].tokens == tuple(range(1, SEARCH.n_ctx + 1))


@pytest.mark.parametrize(("n", "own", "n_sets"), [
    (60_000, True, SETS), (40_000, True, 3), (6_000, True, 1), (1_000, True, 1),
    (40_000, False, SETS), (6_000, False, 2), (1_000, False, 1),
])  # fmt: skip
def test_sets_of_contexts_share_nothing(n: int, own: bool, n_sets: int) -> None:
    """As many as the text gives whole, of its beginning and its end alike."""
    search = numbered(n)
    other = search if own else SomeText("other", " ".join(str(n + i + 1) for i in range(n)), "")
    sets, choose = contexts_for(Texts(search, other, search), TOKENIZER, SEARCH, CHOOSE)
    assert len(sets) == n_sets
    tokens = [{t for chunk in chunks for t in chunk.tokens} - {0} for chunks in (*sets, choose)]
    assert sum(map(len, tokens)) == len(set().union(*tokens))
    for chunks in sets:
        assert len(sets) == 1 or len(chunks) >= SEARCH.n
        assert all(len(chunk.tokens) == SEARCH.n_ctx for chunk in chunks)
    if len(sets) > 1:
        assert all(max(mine) > 0.8 * n for mine in tokens[:-1])
