"""A conversation stays with the member that began it: here, in another process, after changes."""

from __future__ import annotations

import pytest

from localllm.generation import Message
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.routers import Routers
from localllm.route.answering.client import RouterClient, open_generator
from localllm.route.answering.routing import conversation_key
from localllm.route.pool.member import Member
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep, LengthStep, Rule, RulesStep
from localllm.route.pool.writing import as_toml
from tests.route.answering import SMALL, TO_CLOUD, ask, filled, members, opened, point
from tests.support.openai_server import DONE, OpenAIServer, chunk, stream

__all__ = ["filled", "members"]

BIG = Member("big", "model", "loop")
BY_LENGTH = RouterSpec((SMALL, BIG), (LengthStep("small", "big", 20),))
BEGAN = (Message("user", "hello"), Message("assistant", "Hi, you!"))
LONG = Message("user", "a question of more than twenty characters")


def test_it_goes_on_in_another_process_and_after_a_change(registry: Registry) -> None:
    with opened(registry, BY_LENGTH) as router:
        assert ask(router, "hello").text() == "Hi, you!"
    with open_generator(registry, "mine", n_ctx=256) as router:
        later = ask(router, [*BEGAN, LONG])
        later.text()
    routing = later.routing
    assert (routing.member, routing.chosen, routing.sticky) == ("small", "big", True)
    store = Routers(registry)
    store.add("mine", as_toml(BY_LENGTH), made_by="calibrate", like=store.find("mine").current)
    with open_generator(registry, "mine", n_ctx=256) as router:
        assert router.opened.version.number == 2
        assert ask(router, [*BEGAN, LONG]).routing.sticky
        assert not ask(router, LONG.content).routing.sticky
        other = (Message("user", "hullo"), BEGAN[1], LONG)  # a conversation that nobody knows
        assert ask(router, other).routing.member == "big"


def test_a_rule_counts_more_and_so_does_a_router_that_is_not_sticky(registry: Registry) -> None:
    rule = RulesStep((Rule("big", words=("question",)),))
    with opened(registry, RouterSpec((SMALL, BIG), (rule, *BY_LENGTH.steps))) as router:
        ask(router, "hello").text()
        assert ask(router, [*BEGAN, LONG]).routing.member == "big"
    loose = RouterSpec((SMALL, BIG), BY_LENGTH.steps, sticky=False)
    with opened(registry, loose, "loose") as router:
        ask(router, "hello").text()
        assert ask(router, [*BEGAN, LONG]).routing.member == "big"


def test_the_decision_alone_says_the_same_as_asking(registry: Registry) -> None:
    with opened(registry, BY_LENGTH) as router:
        ask(router, "hello").text()
        client = RouterClient(router)
        found = client.decide([*BEGAN, LONG])
        assert (found["member"], found["chosen"], found["sticky"]) == ("small", "big", True)
        assert found["why"] == "small began this conversation"
        fresh = client.decide([LONG])
        assert (fresh["member"], fresh["sticky"]) == ("big", False)


def test_a_member_that_is_no_more_begins_nothing(registry: Registry) -> None:
    with opened(registry, BY_LENGTH) as router:
        ask(router, "hello").text()
    store = Routers(registry)
    big, other = Member("big", "model", "loop"), Member("other", "model", "hi")
    changed = RouterSpec((other, big), (LengthStep("other", "big", 20),))
    store.add("mine", as_toml(changed), made_by="create", like=store.find("mine").current)
    with open_generator(registry, "mine", n_ctx=256) as router:
        assert ask(router, [*BEGAN, LONG]).routing.member == "big"


def test_not_even_a_digest_is_kept_of_private_data(registry: Registry) -> None:
    said = stream(chunk("ok"), chunk(finish="stop"), DONE)
    with OpenAIServer(said) as server:
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            mail = "write to taro@corp-mail.jp"
            ask(router, mail).text()
            ask(router, "write to nobody").text()
    plain, private = Decisions(registry).of("mine")
    assert plain.data["conversation"] == conversation_key([Message("user", "write to nobody")])
    assert "conversation" not in private.data
    assert conversation_key([Message("user", mail)]) not in f"{private}"


def test_why_says_so_where_the_guard_chose_another(registry: Registry) -> None:
    with OpenAIServer(stream(chunk("ok"), chunk(finish="stop"), DONE)) as server:
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            done = ask(router, "my card is 4242 4242 4242 4242")
            done.text()
            assert server.asked == []
    assert done.routing.member == "small"
    assert done.routing.why == "cloud may not see what is private; always"
    assert router.comment == (
        "small answered: cloud may not see what is private; always; private data: local: 1 card"
    )


def test_the_answer_that_was_voted_for_begins_a_conversation(registry: Registry) -> None:
    from localllm.endpoints import Wanted
    from localllm.generation import Sampling

    with opened(registry, BY_LENGTH) as router:
        wanted = Wanted(
            messages=(Message("user", "hello"),), sampling=Sampling(temperature=0.0, max_tokens=9),
            given=frozenset(("temperature", "max_tokens")),
        )  # fmt: skip
        sides = router.compare(wanted)
        texts = [one.text() for one in sides.streams]
        sides.end()
        better = "a" if texts[0].startswith("abc") else "b"
        assert sides.vote(better, (texts[0], texts[1])).preferred == "big"
        after = (Message("user", "hello"), Message("assistant", "abcabcabc"), Message("user", "go"))
        assert ask(router, after).routing.member == "big"


def test_who_leaves_before_a_word_had_no_answer(registry: Registry) -> None:
    desk = Member("desk", "human")
    spec = RouterSpec((SMALL, desk), (AlwaysStep("desk"),), Fallback(("small",)), human_wait_s=60)
    with opened(registry, spec) as router:
        waiting = ask(router, "hello")
        waiting.cancel()
        assert waiting.text() == ""
    (kept,) = Decisions(registry).of("mine")
    assert kept.member == ""


@pytest.mark.parametrize("n_before", [0, 3])
def test_the_latest_of_two_that_began_alike_counts(registry: Registry, n_before: int) -> None:
    decisions = Decisions(registry)
    for member in (*["small"] * n_before, "big", ""):
        decisions.record("r", 1, member=member, chosen="small", data={"conversation": "ab12"})
    assert decisions.began("r", "ab12") == "big"
    assert decisions.began("r", "ab1") is None
    assert decisions.began("other", "ab12") is None
    assert decisions.began("r", "ab12", limit=1) is None
