"""Routers through `localllm serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.endpoints import Endpoints
from localllm.registry.routers import Routers
from localllm.route.making import create
from localllm.route.pool.member import Member
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep, CascadeStep, PredictorStep
from localllm.route.teaching import Material, teach
from tests.route.known import known
from tests.serve.conftest import HI, Server, fill, start
from tests.support.openai_server import DONE, OpenAIServer, chunk, stream

SMALL, BIG = Member("small", "model", "hi"), Member("big", "model", "loop")
USER = [{"role": "user", "content": "oven butter flour"}]


@pytest.fixture(scope="module")
def remote() -> Iterator[OpenAIServer]:
    with OpenAIServer(stream(chunk("far <EMAIL_1>"), chunk(finish="stop"), DONE)) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, remote: OpenAIServer) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("routed")
    fill(folder / "home", folder / "staged")
    registry = Registry(folder / "home")
    spec = RouterSpec((SMALL, BIG), (PredictorStep("small", "big", 0.3),))
    kept = create(registry, "mine", spec)
    teach(registry, kept.current, spec, Material(known(120), (), ()))
    create(registry, "casc", RouterSpec((SMALL, BIG), (CascadeStep("small", "big"),)))
    desk = RouterSpec((Member("desk", "human"),), (AlwaysStep("desk"),), human_wait_s=0.1)
    create(registry, "desk", desk)
    Endpoints.of(registry).add("far", {"url": remote.url, "model": "remote"})
    gone = Member("gone", "endpoint", "dead")
    Endpoints.of(registry).add("dead", {"url": "http://127.0.0.1:9/v1", "model": "x"})
    cloud = Member("cloud", "endpoint", "far", outside=True)
    create(
        registry, "out", RouterSpec((SMALL, cloud), (AlwaysStep("cloud"),), Fallback(("small",)))
    )
    create(registry, "down", RouterSpec((SMALL, gone), (AlwaysStep("gone"),), Fallback(("small",))))
    running = start(folder / "home", "--ctx", "512", "--slots", "2", "--threads", "1")
    yield running
    status, said = running.stop()
    assert status == 0 and "Traceback" not in said


def ask(server: Server, model: str, **more: object) -> object:
    body = {"model": model, "messages": USER, "temperature": 0, "max_tokens": 20, **more}
    return server.post("/v1/chat/completions", body)


def test_routers_are_models_among_others(server: Server) -> None:
    names = [one["id"] for one in server.get("/v1/models").json["data"]]
    assert {"router/mine", "router/casc", "hi", "far"} <= set(names)
    assert server.get("/v1/models/router/mine").json["owned_by"] == "router"


def test_an_answer_says_who_and_why(server: Server) -> None:
    done = ask(server, "router/mine")
    assert done.status == 200
    assert done.json["choices"][0]["message"]["content"] == HI
    routing = done.json["localllm"]["routing"]
    assert (routing["member"], routing["model"], routing["cost"]) == ("small", "hi", 0.0)
    assert routing["probability"] < routing["threshold"] < 1
    assert done.headers["x-localllm-member"] == "small"
    assert float(done.headers["x-localllm-probability"]) == pytest.approx(
        routing["probability"], rel=1e-4
    )
    assert done.headers["x-localllm-decision"] == str(routing["decision"])


def test_another_threshold_by_name(server: Server) -> None:
    done = ask(server, "router/mine@0.0")
    assert done.json["localllm"]["routing"]["member"] == "big"
    assert done.json["choices"][0]["message"]["content"] == "abc" * 6 + "ab"
    wrong = ask(server, "router/mine@7")
    assert (wrong.status, "no threshold" in wrong.json["error"]["message"]) == (400, True)
    nobody = ask(server, "router/mien")
    assert nobody.status == 404 and "router/mine" in nobody.json["error"]["message"]


def test_members_are_in_memory_once(server: Server) -> None:
    for model in ("hi", "router/mine", "router/casc", "router/mine@1"):
        assert ask(server, model).status == 200
    loaded = [one["name"] for one in server.get("/api/ps").json["models"]]
    assert loaded.count("hi") == 1


def test_a_stream_has_it_at_its_end(server: Server) -> None:
    done = ask(server, "router/mine", stream=True, stream_options={"include_usage": True})
    *chunks, last, end = done.events
    assert end is None and last["usage"]["completion_tokens"] == len(HI) + 1
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == HI
    assert chunks[-1]["localllm"]["routing"]["member"] == "small"
    assert done.headers["x-localllm-router"] == "mine"


def test_tools_and_logprobs_are_told_apart(server: Server) -> None:
    assert ask(server, "router/mine", logprobs=True).status == 400
    assert ask(server, "router/mine", n=2).status == 400


def test_what_nobody_can_do_is_the_requests_own_fault(server: Server) -> None:
    """A client tries a 500 again."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    done = ask(server, "router/mine", tools=[tool])
    assert (done.status, done.json["error"]["code"]) == (400, "cannot_do")
    long = [{"role": "user", "content": "oven " * 2000}]
    done = ask(server, "router/mine", messages=long)
    assert (done.status, done.json["error"]["code"]) == (400, "context_length_exceeded")


def test_a_person_who_does_not_answer_is_a_time_out(server: Server) -> None:
    done = ask(server, "router/desk")
    assert (done.status, done.json["error"]["code"]) == (504, "timeout")


def test_the_decision_alone_knows_who_began(server: Server) -> None:
    assert ask(server, "router/mine").json["localllm"]["routing"]["member"] == "small"
    more = {"role": "user", "content": "premise theorem axiom deduce proof valid"}
    going_on = [*USER, {"role": "assistant", "content": HI}, more]
    decide = {"model": "router/mine@0.4", "messages": [more]}
    assert server.post("/v1/routing/decide", decide).json["member"] == "big"
    found = server.post(
        "/v1/routing/decide", {"model": "router/mine", "messages": going_on}
    ).json  # fmt: skip
    assert (found["member"], found["sticky"]) == ("small", True)
    asked = ask(server, "router/mine", messages=going_on).json["localllm"]["routing"]
    assert (asked["member"], asked["sticky"]) == ("small", True)


def test_a_cascade(server: Server) -> None:
    routing = ask(server, "router/casc").json["localllm"]["routing"]
    assert (routing["member"], routing["escalated"]) == ("small", False)
    strict = ask(server, "router/casc@0.0").json["localllm"]["routing"]
    assert (strict["member"], strict["escalated"]) == ("big", True)


def test_what_may_not_leave_does_not(server: Server, remote: OpenAIServer) -> None:
    remote.asked.clear()
    card = [{"role": "user", "content": "my card is 4242 4242 4242 4242"}]
    stays = ask(server, "router/out", messages=card)
    assert stays.json["choices"][0]["message"]["content"] == HI
    assert remote.asked == []
    mail = [{"role": "user", "content": "write to taro@corp-mail.jp"}]
    masked = ask(server, "router/out", messages=mail)
    assert masked.json["choices"][0]["message"]["content"] == "far taro@corp-mail.jp"
    assert b"taro" not in remote.asked[0].body
    fired = masked.json["localllm"]["routing"]["guard"]["fired"]
    assert fired == [{"kind": "email", "count": 1, "action": "mask"}]


def test_a_server_that_is_down_hands_on_without_its_address(server: Server) -> None:
    done = ask(server, "router/down")
    assert done.json["choices"][0]["message"]["content"] == HI
    (failed,) = done.json["localllm"]["routing"]["failures"]
    assert failed["member"] == "gone"
    assert "127.0.0.1" not in done.body.decode()


def test_the_decision_alone(server: Server) -> None:
    before = len(Decisions(Registry(server.home)).of("mine"))
    found = server.post("/v1/routing/decide", {"model": "router/mine", "messages": USER}).json
    assert (found["model"], found["member"]) == ("router/mine", "small")
    assert found["steps"][0]["use"] == "predictor"
    assert len(Decisions(Registry(server.home)).of("mine")) == before
    assert server.post("/v1/routing/decide", {"model": "hi", "prompt": "x"}).status == 404
    assert server.post("/v1/routing/decide", {"model": "router/mine"}).status == 400
    assert server.post("/v1/routing/decide", {"model": "router/mine", "prompt": " "}).status == 400


def test_feedback_over_http(server: Server) -> None:
    number = int(ask(server, "router/mine").headers["x-localllm-decision"])

    def say(verdict: str, decision: int = number) -> int:
        body = {"decision": decision, "verdict": verdict}
        return server.post("/v1/routing/feedback", body).status

    assert say("good") == 200
    assert say("big") == 200  # one client, one vote
    (vote,) = Decisions(Registry(server.home)).find(number).votes
    assert (vote.verdict, vote.source) == ("big", "http 127.0.0.1")
    assert say("'; DROP TABLE vote; --") == 400
    assert say("good", 10**9) == 404


def test_a_new_version_counts_at_once(server: Server) -> None:
    from localllm.route.opening import read_version
    from localllm.route.pool.writing import as_toml
    from localllm.route.teaching import with_threshold

    store = Routers(Registry(server.home))
    version = store.find("mine").current
    spec = with_threshold(read_version(version), 0.0)
    for _ in range(3):
        made = store.add("mine", as_toml(spec), made_by="calibrate", like=version)
        routing = ask(server, "router/mine").json["localllm"]["routing"]
        assert (routing["member"], routing["version"]) == ("big", made.version)
        store.use("mine", version.number)
        routing = ask(server, "router/mine").json["localllm"]["routing"]
        assert (routing["member"], routing["version"]) == ("small", version.number)


def test_a_router_is_known_as_soon_as_it_is_made_and_no_longer(server: Server) -> None:
    registry = Registry(server.home)
    spec = RouterSpec((SMALL, BIG), (AlwaysStep("small"),))
    for _ in range(3):
        assert ask(server, "router/new").status == 404
        create(registry, "new", spec)
        assert ask(server, "router/new").status == 200
        assert "router/new" in [one["id"] for one in server.get("/v1/models").json["data"]]
        Routers(registry).remove("new")
    assert ask(server, "router/new").status == 404


def test_ollama_names_it_too(server: Server) -> None:
    body = {"model": "router/mine", "messages": USER, "stream": False,
            "options": {"temperature": 0}}  # fmt: skip
    done = server.post("/api/chat", body)
    assert done.json["message"]["content"] == HI
    assert done.headers["x-localllm-member"] == "small"


def test_a_client_that_leaves_stops_it(server: Server, tmp_path: Path) -> None:
    import http.client
    import json

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = json.dumps({"model": "router/mine@0.0", "messages": USER, "stream": True})
    connection.request("POST", "/v1/chat/completions", body)
    assert connection.getresponse().read(10)
    connection.close()
    running = lambda: sum(one["running"] for one in server.get("/api/ps").json["models"])  # noqa: E731
    server.wait(lambda: running() == 0)
