"""Who answers when all goes well, and when it does not."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from localllm.errors import LocalLLMError, MissingExtra, UsageProblem
from localllm.generation import Message
from localllm.privacy import Policy
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.inbox import Inbox
from localllm.route.answering.stream import NobodyAnswered
from localllm.route.deciding.guarding import PrivateData
from localllm.route.pool.member import Cost, Member
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep, CascadeStep, Rule, RulesStep
from tests.route.answering import (
    CLOUD,
    HI,
    SMALL,
    TO_CLOUD,
    ask,
    filled,  # noqa: F401
    members,  # noqa: F401
    opened,
    point,
)
from tests.support.openai_server import (
    DONE,
    SSE,
    Asked,
    OpenAIServer,
    answer,
    chunk,
    stream,
    usage,
)

CARD = "4242 4242 4242 4242"


def says(*texts: str) -> Any:
    return stream(*map(chunk, texts), chunk(finish="stop"), usage(7, 3), DONE)


def test_a_model_here_answers_and_the_decision_is_kept(registry: Registry) -> None:
    with opened(registry, RouterSpec((SMALL,), (AlwaysStep("small"),))) as router:
        found = ask(router, "hello")
        assert found.text() == HI
    routing = found.routing
    assert (routing.member, routing.model, routing.outside) == ("small", "hi", False)
    assert found.accounting is not None and found.accounting.completion_tokens == len(HI) + 1
    kept = Decisions(registry).find(routing.decision or 0)
    assert (kept.member, kept.chosen, kept.prompt, kept.cost) == ("small", "small", "hello", 0.0)
    assert kept.data["completion_tokens"] == len(HI) + 1
    assert kept.data["prompt_tokens"] == found.accounting.prompt_tokens > 0


def test_an_endpoint_answers_with_its_own_price(registry: Registry) -> None:
    with OpenAIServer(says("Hel", "lo")) as server:
        point(registry, server, price_in=100.0, price_out=1000.0)
        with opened(registry, TO_CLOUD) as router:
            found = ask(router, "hello there")
            assert found.text() == "Hello"
    assert found.routing.outside
    assert found.routing.cost == pytest.approx((7 * 100 + 3 * 1000) / 1e6)
    assert found.model == "cloud (remote)"  # who answered by its own word, which may be a lie


@pytest.mark.parametrize("trouble", ["down", "error", "busy", "no answer", "broken", "refuses"])
def test_an_endpoint_that_fails_hands_on(registry: Registry, trouble: str) -> None:
    script = {
        "error": answer({"error": {"message": "boom"}}, "500 Internal Server Error"),
        "busy": answer({}, "429 Too Many Requests", {"Retry-After": "9999"}),
        "no answer": answer(b"", "200 OK"),
        "broken": answer(b"<html>not json</html>", "200 OK"),
        "refuses": answer({"error": "context length exceeded"}, "400 Bad Request"),
    }.get(trouble, says("x"))
    with OpenAIServer(script) as server:
        point(registry, server)
        if trouble == "down":
            point(registry, server, url="http://127.0.0.1:9/v1")  # nobody listens there
        with opened(registry, TO_CLOUD) as router:
            found = ask(router, "hello")
            assert found.text() == HI
    (failed,) = found.routing.failures
    assert failed.member == "cloud"
    kept = Decisions(registry).find(found.routing.decision or 0)
    assert (kept.chosen, kept.member) == ("cloud", "small")
    assert kept.data["failures"][0][0] == "cloud"


def test_one_that_hangs_is_not_waited_for(registry: Registry) -> None:
    def hang(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"Connection: close\r\n\r\n")
        server.until_gone(connection)

    slow = Member("cloud", "endpoint", "far", first_token_s=0.5)
    spec = RouterSpec((SMALL, slow), (AlwaysStep("cloud"),), Fallback(("small",)))
    with OpenAIServer(hang) as server:
        point(registry, server)
        with opened(registry, spec) as router:
            found = ask(router, "hello")
            assert found.text() == HI
            assert server.gone.wait(10)  # and it was told
    assert found.routing.failures[0].kind == "too_slow"


def test_words_that_were_shown_are_not_taken_back(registry: Registry) -> None:
    """Another member could not go on from the middle of a sentence."""
    with OpenAIServer(stream(chunk("Half a"))) as server:  # and the connection ends
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            found = ask(router, "hello")
            pieces = iter(found)
            assert next(pieces).text == "Half a"
            with pytest.raises(LocalLLMError):
                list(pieces)
    assert Decisions(registry).find(found.routing.decision or 0).member == ""


def test_a_prompt_that_is_too_long_hands_on(registry: Registry) -> None:
    spec = RouterSpec((SMALL, CLOUD), (AlwaysStep("small"),), Fallback(("small", "cloud")))
    with OpenAIServer(says("long")) as server:
        point(registry, server)
        with opened(registry, spec) as router:
            found = ask(router, "word " * 400)
            assert found.text() == "long"
    assert found.routing.failures[0].kind == "out_of_context"


def test_nobody_left_is_the_last_members_error(registry: Registry) -> None:
    with OpenAIServer(answer({}, "500 Internal Server Error")) as server:
        point(registry, server, price_in=100.0, price_out=1000.0)
        spec = RouterSpec((SMALL, CLOUD), (AlwaysStep("cloud"),))
        with opened(registry, spec) as router:
            found = ask(router, "hello")
            with pytest.raises(LocalLLMError, match="failed"):
                found.text()
            assert router.comment is not None and found.routing.cost is None


# --- the privacy guard ----------------------------------------------------------------------


def test_what_may_be_masked_leaves_under_a_placeholder_and_comes_back(registry: Registry) -> None:
    said = ["Write to <EMA", "IL_1>", " today"]
    with OpenAIServer(says(*said)) as server:
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            found = ask(router, "Draft a letter to taro@corp-mail.jp please")
            assert found.text() == "Write to taro@corp-mail.jp today"
        sent = server.asked[0].body.decode()
    assert "taro" not in sent and "<EMAIL_1>" in sent
    kept = Decisions(registry).find(found.routing.decision or 0)
    assert kept.prompt == "Draft a letter to <EMAIL_1> please"
    assert kept.data["guard"]["fired"] == [{"kind": "email", "count": 1, "action": "mask"}]
    assert b"taro" not in (registry.home / "chats.db").read_bytes()


def test_what_must_stay_is_answered_here(registry: Registry) -> None:
    with OpenAIServer(says("never")) as server:
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            found = ask(router, f"my card is {CARD}")
            assert found.text() == HI
            # and nothing that comes after in the same conversation leaves either
            more = [Message("user", f"my card is {CARD}"), Message("assistant", HI),
                    Message("user", "thanks")]  # fmt: skip
            assert ask(router, more).text() == HI
        assert server.asked == []
    assert (found.routing.chosen, found.routing.member) == ("cloud", "small")


def test_where_nobody_here_may_answer_it_is_refused(registry: Registry) -> None:
    with OpenAIServer(says("never")) as server:
        point(registry, server)
        with opened(registry, RouterSpec((CLOUD,), (AlwaysStep("cloud"),))) as router:
            with pytest.raises(PrivateData) as caught:
                ask(router, f"my card is {CARD}")
            assert "card" in caught.value.message and "4242" not in caught.value.message
        assert server.asked == []


def test_a_failing_member_here_does_not_let_it_out(registry: Registry) -> None:
    """The fallback may not do what the choice may not."""
    spec = RouterSpec((SMALL, CLOUD), (AlwaysStep("small"),), Fallback(("small", "cloud")))
    with OpenAIServer(says("never")) as server:
        point(registry, server)
        with opened(registry, spec) as router, pytest.raises(LocalLLMError):
            ask(router, f"my card is {CARD} " + "word " * 400).text()  # too long for small
        assert server.asked == []


def test_the_policy_decides(registry: Registry) -> None:
    free = RouterSpec(
        (SMALL, CLOUD), (AlwaysStep("cloud"),), privacy=Policy.parse({"default": "allow"})
    )
    with OpenAIServer(says("ok")) as server:
        point(registry, server)
        with opened(registry, free) as router:
            assert ask(router, f"my card is {CARD}").text() == "ok"
        assert CARD in server.asked[0].body.decode()


def test_without_the_detectors_nothing_leaves(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(says("never")) as server:
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
            with pytest.raises(MissingExtra, match="nothing leaves"):
                ask(router, "hello")
        assert server.asked == []


def test_cancelled_before_anybody_was_asked(registry: Registry) -> None:
    with opened(registry, RouterSpec((SMALL,), (AlwaysStep("small"),))) as router:
        found = ask(router, "hello")
        found.cancel()
        assert found.text() == ""
    assert found.accounting is not None and found.accounting.finish_reason == "cancelled"
    kept = Decisions(registry).find(found.routing.decision or 0)
    assert (kept.member, kept.cost, found.routing.cost) == ("", None, None)


def test_a_strong_member_that_fails_leaves_what_the_weak_one_cost(registry: Registry) -> None:
    """What was expected of the strong one was not spent."""
    weak = Member("weak", "model", "noise", cost=Cost(0, 1e6))
    spec = RouterSpec((weak, CLOUD), (CascadeStep("weak", "cloud", look_tokens=4),))
    with OpenAIServer(stream(chunk("Half a"))) as server:
        point(registry, server, price_in=100.0, price_out=1000.0)
        with opened(registry, spec) as router:
            found = ask(router, "hello", max_tokens=40, seed=1)
            with pytest.raises(LocalLLMError):
                found.text()
    kept = Decisions(registry).find(found.routing.decision or 0)
    assert (kept.member, found.routing.escalated) == ("", True)
    assert kept.cost == found.routing.cost
    assert kept.cost is not None and 4 <= kept.cost < 40  # so many tokens at 1 each


# --- conversations, cascades, people ----------------------------------------------------------


def test_a_conversation_stays_with_who_began_it(registry: Registry) -> None:
    spec = RouterSpec(
        (SMALL, Member("big", "model", "loop")),
        (RulesStep((Rule("big", words=("hard",)),)), AlwaysStep("small")),
    )
    with opened(registry, spec) as router:
        first = [Message("user", "easy")]
        assert ask(router, first).text() == HI
        second = [*first, Message("assistant", HI), Message("user", "and this?")]
        found = ask(router, second)
        found.text()
        assert (found.routing.member, found.routing.sticky) == ("small", True)
        third = [*second[:-1], Message("user", "something hard")]
        ruled = ask(router, third)
        ruled.text()
        assert (ruled.routing.member, ruled.routing.sticky) == ("big", False)  # a rule is a rule


def cascade(**more: Any) -> RouterSpec:
    weak = more.pop("weak", "hi")
    pool = (Member("weak", "model", weak), Member("strong", "model", "loop",
               cost=Cost(0, 1e6)))  # fmt: skip
    return RouterSpec(pool, (CascadeStep("weak", "strong", look_tokens=4, **more),))


def test_a_cascade_keeps_a_sure_answer(registry: Registry) -> None:
    with opened(registry, cascade()) as router:
        found = ask(router, "hello")
        assert found.text() == HI
    assert found.routing.escalated is False
    assert found.routing.signals["logprobs"] > 0.99  # the tiny chain is certain of every token


def test_a_cascade_gives_an_unsure_answer_up_early(registry: Registry) -> None:
    with opened(registry, cascade(weak="noise")) as router:
        found = ask(router, "hello", max_tokens=40, seed=1)
        assert found.text().startswith("abcabc")
    routing = found.routing
    assert (routing.member, routing.escalated) == ("strong", True)
    assert routing.signals["logprobs"] < 0.3
    assert routing.cost == pytest.approx(40)  # 40 tokens at 1 each: the weak ones are free


def test_samples_that_agree_are_kept(registry: Registry) -> None:
    step: dict[str, Any] = {"signals": ("agreement",), "samples": 3}
    with opened(registry, cascade(**step)) as router:
        same = ask(router, "hello")
        assert same.text() == HI
        assert same.routing.signals == {"agreement": 1.0}
    with opened(registry, cascade(weak="noise", **step), "other") as router:
        other = ask(router, "hello", temperature=2.0, seed=3, max_tokens=12)
        other.text()
        assert other.routing.member == "strong"


def test_it_asks_itself(registry: Registry) -> None:
    """The tiny chain knows neither yes nor no: that says nothing either way."""
    with opened(registry, cascade(signals=("logprobs", "p_true"))) as router:
        found = ask(router, "hello")
        assert found.text() == HI
    assert found.routing.signals["p_true"] == 0.5


ME = Member("me", "human", draft="small")


def to_me(wait_s: float) -> RouterSpec:
    return RouterSpec((SMALL, ME), (AlwaysStep("me"),), Fallback(("me", "small")),
                      human_wait_s=wait_s)  # fmt: skip


def test_a_person_answers(registry: Registry) -> None:
    def person() -> None:
        inbox = Inbox(registry)
        while not (waiting := inbox.list()):
            time.sleep(0.05)
        assert waiting[0].question == "what shall we do?"
        assert waiting[0].draft == HI
        inbox.answer(waiting[0].id, "Wait.")

    with opened(registry, to_me(30)) as router:
        helper = threading.Thread(target=person)
        helper.start()
        found = ask(router, "what shall we do?")
        assert found.text() == "Wait."
        helper.join()
    assert found.routing.member == "me"


def test_a_person_who_is_away_is_not_waited_for_longer(registry: Registry) -> None:
    with opened(registry, to_me(0.5)) as router:
        found = ask(router, "hello")
        assert found.text() == HI
    assert found.routing.failures[0].kind == "nobody_answered"
    (item,) = Inbox(registry).list(every=True)
    assert item.state == "expired"
    with pytest.raises(UsageProblem, match="expired"):
        Inbox(registry).answer(item.id, "too late")
    alone = RouterSpec((ME, SMALL), (AlwaysStep("me"),), human_wait_s=0.3)
    with opened(registry, alone, "alone") as router, pytest.raises(NobodyAnswered):
        ask(router, "hello").text()


def test_a_question_that_is_given_up_leaves_the_inbox(registry: Registry) -> None:
    with opened(registry, to_me(30)) as router:
        found = ask(router, "hello")
        threading.Timer(1.0, found.cancel).start()
        assert found.text() == ""
    (item,) = Inbox(registry).list(every=True)
    assert item.state == "withdrawn"
