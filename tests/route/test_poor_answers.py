"""Endpoints that answer nothing, or as somebody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from localllm.errors import SourceFailed
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.route.answering.routing import another_model
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep
from tests.route.answering import (
    CLOUD,
    HI,
    TO_CLOUD,
    ask,
    filled,  # noqa: F401
    members,  # noqa: F401
    opened,
    point,
)
from tests.support.openai_server import DONE, OpenAIServer, chunk, stream, usage


def says(text: str, **more: Any) -> Any:
    return stream(chunk(text, finish="stop", **more), usage(7, 3), DONE)


def test_an_answer_without_a_word_hands_on(registry: Registry) -> None:
    with OpenAIServer(stream(chunk(finish="stop"), usage(7, 0), DONE)) as server:
        point(registry, server, price_in=1e6, price_out=0.0)
        with opened(registry, TO_CLOUD) as router:
            found = ask(router, "hello")
            assert found.text() == HI
            assert found.routing.cost == pytest.approx(7.0)  # what was read is to be paid for
            asked_for = ask(router, "hello", stop=("Hello",))
            assert asked_for.text() == ""
        alone = RouterSpec((CLOUD,), (AlwaysStep("cloud"),))
        with opened(registry, alone, "alone") as router:
            last = ask(router, "hello")
            assert last.text() == ""
    (failed,) = found.routing.failures
    assert (failed.member, failed.message) == ("cloud", "cloud: an answer without a word")
    assert asked_for.routing.member == last.routing.member == "cloud"


def test_an_endpoint_that_says_it_is_another_model_is_recorded(registry: Registry) -> None:
    with OpenAIServer([says("Hi", model="cheap-7b"), says("Hi")]) as server:
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            lied, honest = ask(router, "one"), ask(router, "two")
            assert lied.text() == honest.text() == "Hi"
    assert (lied.routing.says, honest.routing.says) == ("cheap-7b", None)
    assert Decisions(registry).find(lied.routing.decision or 0).data["says"] == "cheap-7b"


def test_an_endpoint_that_says_it_is_another_model_can_be_given_up(registry: Registry) -> None:
    strict = Fallback(("small",), other_model="fallback")
    spec = replace(TO_CLOUD, fallback=strict)
    scripts = [says("Hi", model="cheap-7b"), says("Hi", model="cheap-7b"), says("Hi")]
    with OpenAIServer(scripts) as server:
        point(registry, server, price_in=1e6, price_out=0.0)
        with opened(registry, spec) as router:
            found = ask(router, "hello")
            assert found.text() == HI
            assert router.resting.rest_s("cloud") > 0  # the next request does not pay for it too
        alone = replace(strict, order=())
        lone = RouterSpec((CLOUD,), (AlwaysStep("cloud"),), alone)
        with opened(registry, lone, "lone") as router:
            with pytest.raises(SourceFailed, match="says that it is cheap-7b, not as asked"):
                ask(router, "hello").text()
            router.resting.answered("cloud")
            assert ask(router, "hello").text() == "Hi"
    (failed,) = found.routing.failures
    assert (failed.member, failed.kind) == ("cloud", "other_model")
    assert found.routing.member == "small"
    # what it read is to be paid for: by its count where that had come, else about
    assert found.routing.cost in (pytest.approx(6.0), pytest.approx(7.0))


def test_an_endpoint_that_counts_what_cannot_be_is_recorded(registry: Registry) -> None:
    lie = stream(chunk("Hi", finish="stop"), usage(-7, 10**9), DONE)
    silent = stream(chunk("Hi", finish="stop"), DONE)
    with OpenAIServer([lie, silent, says("Hi")]) as server:
        point(registry, server, price_in=1e6, price_out=1e6)
        with opened(registry, TO_CLOUD) as router:
            found = [ask(router, "hello") for _ in range(3)]
            assert [one.text() for one in found] == ["Hi"] * 3
            routings = [one.routing for one in found]
            router_says = router.comment or ""
    doubt = "prompt_tokens -7, completion_tokens 1000000000 for no more than 68"
    assert [one.doubt for one in routings] == [doubt, None, None]
    assert [one.estimated for one in routings] == [True, True, False]
    # "hello" is about 6 tokens with what is around it, "Hi" 1; the honest one counted 7 and 3
    assert [one.cost for one in routings] == pytest.approx([7.0, 7.0, 10.0])
    kept = Decisions(registry).find(routings[0].decision or 0)
    assert (kept.data["doubt"], kept.data["estimated"]) == (doubt, True)
    assert kept.data["prompt_tokens"] == 6 and kept.cost == pytest.approx(7.0)
    assert "counts" not in router_says  # of the last one


@pytest.mark.parametrize(
    ("asked_for", "said", "other"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", False),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
        ("gpt-4o", "gpt-4o-mini", True),
        ("gpt-4o", "gpt-4-0613", True),
        ("llama3", "llama3:latest", False),
        ("google/gemma-3-1b", "Gemma-3-1B", False),
        ("gemma-3-1b", "C:\\models\\gemma-3-1b.gguf", False),
        ("gemma-3-1b", "gemma-3-12b", True),
        ("remote", None, False),
    ],
)
def test_what_is_another_model(asked_for: str, said: str | None, other: bool) -> None:
    assert another_model(asked_for, said) is other
