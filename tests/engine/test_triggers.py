"""A grammar that begins in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.engine.tokenizer import Tokenizer
from localllm.engine.triggers import Trigger, offer
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext

GREEDY = {"temperature": 0.0, "max_tokens": 12}


def said(model: Model, make_context: MakeContext, sampling: Sampling, prompt: str = "H") -> str:
    generator = LocalGenerator(make_context(model))
    return "".join(piece.text for piece in generator.complete(prompt, sampling))


def test_what_comes_before_is_free_and_what_follows_is_held(
    chain: Callable[[bytes], Model], make_context: MakeContext
) -> None:
    model = chain(b"Habcdef")
    free = Sampling(**GREEDY)
    assert said(model, make_context, free) == "abcdef"
    held = Sampling(**GREEDY, grammar='root ::= "xy"', grammar_triggers=("zz", "bc"))
    assert said(model, make_context, held) == "abcxy"


def test_without_its_trigger_the_grammar_never_begins(
    chain: Callable[[bytes], Model], make_context: MakeContext
) -> None:
    held = Sampling(**GREEDY, grammar='root ::= "xy"', grammar_triggers=("cb",))
    assert said(chain(b"Habcdef"), make_context, held) == "abcdef"


def test_what_a_token_has_beyond_the_trigger_is_the_grammars(llama: Model) -> None:
    tokenizer = llama.tokenizer
    token = next(t for t in range(tokenizer.n_vocab) if tokenizer.piece(t) == b" the")
    trigger = Trigger(tokenizer, (" t", "never"))
    assert trigger.watch(tokenizer.encode("a", add_special=False)[0]) is None
    assert trigger.watch(token) == b"he"


def test_a_trigger_may_be_split_over_tokens(llama: Model) -> None:
    tokenizer = llama.tokenizer
    trigger = Trigger(tokenizer, ("<tool_call>",))
    tokens = tokenizer.encode("x <tool_call>", add_special=False)
    found = [trigger.watch(token) for token in tokens]
    assert found[-1] == b""
    assert set(found[:-1]) == {None}


@pytest.mark.parametrize("vocabulary", ["llama", "spm"])
def test_what_does_not_fit_is_not_forced_on_the_grammar(
    request: pytest.FixtureRequest, vocabulary: str
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(vocabulary).tokenizer
    taken: list[int] = []

    def refuse(token: int) -> bool:
        taken.append(token)
        return False

    assert offer(tokenizer, b"", refuse)
    assert not offer(tokenizer, b"he", refuse)
    assert not offer(tokenizer, b"\xf0\x9f", refuse)
    assert len(taken) <= 1


def test_a_token_that_breaks_the_grammar_leaves_the_answer_free(
    chain: Callable[[bytes], Model], make_context: MakeContext
) -> None:
    # "b" is the trigger's end and the whole of its token: nothing is beyond it
    held = Sampling(**GREEDY, grammar='root ::= "c" [a-z]* ', grammar_triggers=("ab",))
    assert said(chain(b"Habcdef"), make_context, held).startswith("abc")
