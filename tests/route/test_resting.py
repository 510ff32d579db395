"""An endpoint that failed is asked after the others for a while, then again."""

from __future__ import annotations

from localllm.errors import SourceFailed, UsageProblem
from localllm.library.answering import OutOfContext
from localllm.registry import Registry
from localllm.route.answering.resting import Resting
from tests.route.answering import HI, TO_CLOUD, ask, filled, members, opened, point
from tests.support.openai_server import OpenAIServer, answer

__all__ = ["filled", "members"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_failure_in_a_row_doubles_the_rest_and_an_answer_ends_it() -> None:
    clock = Clock()
    resting = Resting(clock)
    assert resting.last(["a", "b"]) == ("a", "b")
    rests = []
    for _ in range(8):
        resting.failed("a", SourceFailed("down"))
        rests.append(resting.rest_s("a"))
        clock.now += rests[-1] + 1
        assert resting.rest_s("a") == 0  # asked again
    assert rests == [15, 30, 60, 120, 240, 300, 300, 300]
    resting.answered("a")
    resting.failed("a", SourceFailed("down"))
    assert resting.rest_s("a") == 15
    assert resting.last(["a", "b", "c"]) == ("b", "c", "a")
    assert resting.last(["a"]) == ("a",)  # better than nobody


def test_many_failures_at_once_are_one() -> None:
    resting = Resting(Clock())
    for _ in range(50):
        resting.failed("a", SourceFailed("down"))
    assert resting.rest_s("a") == 15


def test_what_is_the_requests_own_fault_is_no_failure() -> None:
    resting = Resting(Clock())
    resting.failed("a", OutOfContext("too long"))
    resting.failed("a", UsageProblem("no tools"))
    assert resting.rest_s("a") == 0


def test_a_failing_endpoint_is_not_asked_by_the_next_request(registry: Registry) -> None:
    clock = Clock()
    boom = answer({"error": {"message": "boom"}}, "500 Internal Server Error")
    with OpenAIServer(boom) as server:
        point(registry, server)
        with opened(registry, TO_CLOUD) as router:
            router.resting = Resting(clock)
            first, second = (ask(router, "hello") for _ in range(2))
            assert first.text() == HI  # both were planned before either failed
            assert second.text() == HI
            n_asked = len(server.asked)
            third = ask(router, "hello again")
            assert third.text() == HI
            assert len(server.asked) == n_asked
            assert not third.routing.failures
            assert third.routing.chosen == "cloud"
            assert third.routing.why.startswith("cloud failed of late and rests for 15 s more")
            clock.now += 16
            fourth = ask(router, "hello once more")
            assert fourth.text() == HI
            assert len(server.asked) > n_asked
            assert [one.member for one in fourth.routing.failures] == ["cloud"]
