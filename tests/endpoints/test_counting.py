"""Servers that count wrongly: negative, absurd, words, nothing."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.endpoints.counting import Counts, Tally, counts_of
from localllm.endpoints.wanted import Wanted
from localllm.generation import Message, Sampling
from localllm.toolcalls import Tool
from tests.endpoints.conftest import endpoint, said
from tests.support.openai_server import DONE, OpenAIServer, chunk, event, stream, usage

TEXT = "The quick brown fox jumps over the lazy dog."  # 9 words, 44 bytes
HIRAGANA = "これはにほんごのぶんです"  # 12 characters, 36 bytes, no space


def counted(
    given: Any, *, answer: str = TEXT, prompt: str = TEXT, kind: str = "openai", **wanted: Any
) -> Counts:
    tally = Tally()
    tally.add(answer)
    tally.n_pieces = 1
    with OpenAIServer(stream(DONE)) as server:
        at = endpoint(server, kind=kind)
    question = Wanted(messages=(Message("user", prompt),), **wanted)
    return counts_of(given, {}, at, question, [tally])


def both(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


@pytest.mark.parametrize(
    ("given", "doubt"),
    [
        (both(-5, 10), "prompt_tokens -5"),
        (both(12, -1), "completion_tokens -1"),
        (both("12", 10), 'prompt_tokens "12"'),
        (both(12, True), "completion_tokens true"),
        (both(12, 10.5), "completion_tokens 10.5"),
        (both(12, 10**9), "completion_tokens 1000000000 for no more than 152"),
        (both(10**30, 10), "prompt_tokens 10000000000000000000... for no more than"),
        (both(12, 0), "completion_tokens 0 for no less than 4"),
        (both(0, 10), "prompt_tokens 0 for no less than 4"),
        (both([1], {}), "prompt_tokens [1], completion_tokens {}"),
        ("lots", 'usage "lots"'),
        # thinking that is not sent can be more than the answer, but not more than was allowed
        (both(12, 5000, completion_tokens_details={"reasoning_tokens": 10**9}), "for no more than"),
    ],
)
def test_what_cannot_be_is_estimated_and_said(given: Any, doubt: str) -> None:
    found = counted(given, sampling=Sampling(max_tokens=100))
    assert found.doubt is not None and doubt in found.doubt
    assert not found.counted
    assert 0 < found.prompt < 100 and 0 < found.said < 100


@pytest.mark.parametrize("given", [None, {}, both(None, None), {"total_tokens": 22}])
def test_what_is_not_said_is_estimated_without_a_doubt(given: Any) -> None:
    found = counted(given)
    assert (found.counted, found.doubt) == (False, None)
    # four bytes a token, four tokens around a message
    assert (found.prompt, found.said) == (12 + 4, 11)


@pytest.mark.parametrize(
    ("answer", "n"),
    [
        (TEXT, 9), (TEXT, 45), (TEXT, 46), (HIRAGANA, 4), (HIRAGANA, 36), ("", 0), ("", 1),
        (" " * 4000, 40), ("हिन्दी में लिखा हुआ एक वाक्य", 6), ("-" * 1000, 8), ("🦊" * 50, 150),
        ("a\nb\n" * 500, 2000),
    ],
)  # fmt: skip
def test_what_tokenizers_do_is_believed(answer: str, n: int) -> None:
    found = counted(both(n + 9, n), answer=answer, prompt=answer or "?")
    assert found == Counts(n + 9, n, 0, True, None)


def test_what_is_not_seen_is_believed_within_reason() -> None:
    hidden = {"completion_tokens_details": {"reasoning_tokens": 4000}}
    assert counted(both(12, 4010, **hidden)).counted
    assert counted(both(3000, 10)).counted  # the server's own instructions
    image = (Message("user", "What is it?", {"images": (b"\x89PNG\r\n\x1a\n",)}),)
    at = Tally()
    with OpenAIServer(stream(DONE)) as server:
        found = counts_of(both(20_000, 1), {}, endpoint(server), Wanted(messages=image), [at])
    assert found.counted
    tool = Tool("look", "word " * 9000, {"type": "object"})
    assert counted(both(9050, 10), tools=(tool,)).counted
    # Ollama cuts what is too long for its context, and says so by its count
    long = "word " * 20_000
    assert counted(both(4096, 10), prompt=long, kind="ollama").counted
    assert counted(both(4096, 10), prompt=long).doubt is not None


def test_words_in_pieces_are_words() -> None:
    tally = Tally()
    for piece in ("The qu", "ick", "", " brown", " ", "fox", "es."):
        tally.add(piece)
    assert tally.n_words == 4
    tally.add("a thought of many words", thinking=True)  # which some servers count apart
    assert tally.n_words == 4 and tally.n_bytes == len("The quick brown foxes.") + 23


def test_a_lie_costs_what_was_sent_and_received() -> None:
    pieces = [chunk(word + " ") for word in TEXT.split()]
    script = stream(*pieces, chunk(finish="stop"), usage(10**9, 10**9), DONE)
    with OpenAIServer(script) as server:
        account = said(server, endpoint(server, price_in=1.0, price_out=1.0)).accounting
    assert account is not None
    assert account.doubt is not None and not account.counted
    assert account.completion_tokens == 9  # a token a piece
    assert 0 < (account.cost or 0) < 1e-4


def test_times_that_are_longer_than_it_took_are_not_believed() -> None:
    timings = {"prompt_ms": 9e6, "predicted_ms": 1.0}
    script = stream(chunk("a"), chunk(finish="stop", timings=timings), usage(5, 1), DONE)
    with OpenAIServer(script) as server:
        account = said(server).accounting
    assert account is not None and 0 < account.prompt_s < 60


def test_the_last_usage_of_several_counts() -> None:
    """vLLM's continuous_usage_stats."""
    growing = [
        event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": n}})
        for n in (0, 1, 2)
    ]
    script = stream(growing[0], chunk("a"), growing[1], chunk("b"), chunk(finish="stop"),
                    growing[2], DONE)  # fmt: skip
    with OpenAIServer(script) as server:
        account = said(server).accounting
    assert account is not None
    assert (account.completion_tokens, account.counted, account.doubt) == (2, True, None)
