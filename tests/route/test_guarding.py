"""What leaves this machine, and what comes back to whom."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.generation import Message
from localllm.privacy import Policy
from localllm.registry import Registry
from localllm.route.answering.client import RouterClient
from localllm.route.answering.routed import RoutedGenerator
from localllm.route.deciding.guarding import PrivateData, guard
from localllm.route.pool.member import Cost
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep
from localllm.toolcalls import Tool
from tests.route.answering import CLOUD, HI, SMALL, ask, models, opened, point
from tests.support.openai_server import DONE, OpenAIServer, chunk, stream

TO_CLOUD = RouterSpec((SMALL, CLOUD), (AlwaysStep("cloud"),), Fallback(("cloud", "small")))
MAIL, CARD = "taro@corp-mail.jp", 4242424242424242


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded")
    models(Registry(folder / "home"), folder / "staged")
    return folder / "home"


@pytest.fixture
def server(filled: Path, home: Path) -> Iterator[OpenAIServer]:
    shutil.copytree(filled, home)
    with OpenAIServer(stream(chunk("to <EMAIL_1>"), chunk(finish="stop"), DONE)) as server:
        point(Registry(home), server)
        yield server


def router(registry: Registry, spec: RouterSpec = TO_CLOUD) -> RoutedGenerator:
    return opened(registry, spec)


def test_one_clients_data_do_not_come_back_to_another(
    registry: Registry, server: OpenAIServer
) -> None:
    """Both conversations begin with the same word."""

    def said(*texts: str) -> list[Message]:
        roles = ("user", "assistant", "user")
        return [Message(role, text) for role, text in zip(roles, texts, strict=True)]  # type: ignore[arg-type]

    with router(registry) as one:
        first = ask(one, said("hello", "Hi.", f"write to {MAIL}"))
        assert first.text() == f"to {MAIL}"
        second = ask(one, said("hello", "Hi.", "write to hanako@other-mail.jp"))
        assert second.text() == "to hanako@other-mail.jp"
        third = ask(one, said("hello", "Hi.", "how does one mask an address?"))
        assert third.text() == "to <EMAIL_1>"


@pytest.mark.parametrize("more", [
    {"tools": (Tool("mail", f"Writes to {MAIL}"),)},
    {"tools": (Tool("mail", "", {"properties": {"to": {"enum": [MAIL]}}}),)},
    {"tools": (Tool("mail", "", {"properties": {MAIL: {"type": "string"}}}),)},
    {"tools": (Tool("pay", "", {"properties": {"card": {"enum": [CARD]}}}),)},
    {"schema": {"type": "string", "const": MAIL}},
    {"variables": {"who": MAIL}},
])  # fmt: skip
def test_what_is_beside_the_messages_does_not_leave(
    registry: Registry, server: OpenAIServer, more: dict[str, Any]
) -> None:
    with router(registry) as one:
        found = ask(one, "hello", more)
        assert (found.routing.chosen, found.routing.guard["action"]) == ("cloud", "local")
        with pytest.MonkeyPatch.context() as patch:
            # nobody here need be able to do it: what counts is who is not asked
            patch.setattr(one, "door", lambda name: pytest.fail(f"{name} was asked"), raising=True)
            assert all(not one.opened.standings[name].outside for name in found._names)
    alone = RouterSpec((CLOUD,), (AlwaysStep("cloud"),))
    with opened(registry, alone, "alone") as one, pytest.raises(PrivateData):
        ask(one, "hello", more)
    assert server.asked == []


def test_names_and_numbers_in_a_calls_arguments_do_not_leave(
    registry: Registry, server: OpenAIServer
) -> None:
    """Libraries give them as an object, where a card is a number and a person a key."""

    def said(arguments: dict[str, Any]) -> tuple[Message, ...]:
        call = {"id": "x", "function": {"name": "f", "arguments": arguments}}
        return (
            Message("user", "go"), Message("assistant", "", {"tool_calls": [call]}),
            Message("tool", "done", {"tool_call_id": "x"}), Message("user", "more"),
        )  # fmt: skip

    arguments = {MAIL: 1, "n": 5, "deep": {"phone": 4155552671}, "ok": True}
    with router(registry) as one:
        found = ask(one, said(arguments))
        found.text()
        stays = guard(said({"cards": [CARD]}), one.opened.spec.privacy)
    sent = server.asked[-1].json["messages"][1]["tool_calls"][0]["function"]["arguments"]
    masked = {"<EMAIL_1>": 1, "n": 5, "deep": {"phone": "<PHONE_1>"}, "ok": True}
    assert json.loads(sent) == masked
    assert MAIL in arguments  # the caller's own
    fired = {one["kind"]: one["count"] for one in found.routing.guard["fired"]}
    assert fired == {"email": 1, "phone": 1}
    assert stays.must_stay and [one["kind"] for one in stays.record["fired"]] == ["card"]


def test_what_is_held_back_comes_in_its_place(registry: Registry, server: OpenAIServer) -> None:
    """What could be the beginning of a placeholder, before a call, between two and at an end."""

    def piece(number: int, arguments: str, **first: Any) -> bytes:
        call = {"index": number, "function": {"arguments": arguments}}
        if first:
            call |= {"id": f"c{number}", "function": {"arguments": arguments, **first}}
        return chunk(delta={"tool_calls": [call]})

    script = stream(
        chunk("Look <EM"), piece(0, '{"to": "<EMA', name="send"), piece(0, 'IL_1>", "x": "<EM'),
        piece(1, '{"to": "<EMAIL', name="send"), piece(1, '_1>", "y": "<E'),
        chunk(finish="length"), DONE,
    )  # fmt: skip
    with OpenAIServer(script) as cut:
        point(registry, cut)
        with opened(registry, TO_CLOUD) as router:
            found = ask(router, "mail bob@corp.org", {"tools": (Tool("send"),)})
            parts = list(found.parts())
    merged: list[str] = []
    for part in parts:
        name = type(part).__name__
        text = getattr(part, "text", "")
        if merged and merged[-1].startswith(f"{name} "):
            merged[-1] += text
        else:
            merged.append(f"{name} {text}")
    assert merged == [
        "TextPart Look <EM", "CallStart ", 'CallArguments {"to": "bob@corp.org", "x": "<EM',
        "CallEnd ", "CallStart ", 'CallArguments {"to": "bob@corp.org", "y": "<E', "CallEnd ",
    ]  # fmt: skip
    assert [call.arguments[-3:] for call in found.calls] == ["<EM", '"<E']


def test_stop_strings_do_not_leave_either(registry: Registry, server: OpenAIServer) -> None:
    with router(registry) as one:
        assert ask(one, "hello", stop=(MAIL,)).text() == HI
    assert server.asked == []


def test_tools_without_anybodys_data_leave_with_what_is_masked(
    registry: Registry, server: OpenAIServer
) -> None:
    tool = Tool("mail", "Writes a letter.", {"properties": {"size": {"enum": [1, 250, 4096]}}})
    with router(registry) as one:
        assert ask(one, f"write to {MAIL}", {"tools": (tool,)}).text() == f"to {MAIL}"
    sent = server.asked[0].body.decode()
    assert "Writes a letter." in sent and MAIL not in sent


def test_a_decision_alone_looks_at_the_tools_too(registry: Registry, server: OpenAIServer) -> None:
    said = (Message("user", "hello"),)
    with router(registry) as one:
        client = RouterClient(one)
        assert client.decide(said)["member"] == "cloud"
        found = client.decide(said, tools=(Tool("mail", f"Writes to {MAIL}"),))
        assert (found["member"], found["guard"]["action"]) == ("small", "local")
    assert server.asked == []


def test_a_decision_costs_what_the_member_costs_that_would_answer(
    registry: Registry, server: OpenAIServer
) -> None:
    dear = replace(CLOUD, cost=Cost(1.0, 2.0))
    with router(registry, replace(TO_CLOUD, members=(SMALL, dear))) as one:
        client = RouterClient(one)
        free = client.decide([Message("user", f"card {CARD}")])
        paid = client.decide([Message("user", "0123456789" * 40)])
    assert (free["member"], free["cost"]) == ("small", 0.0)
    assert (paid["member"], paid["cost"]) == ("cloud", pytest.approx((100 + 2 * 256) / 1e6))


@pytest.mark.parametrize("schema", [{"type": "object"}, None])
def test_an_answer_to_a_schema_stays_json_whatever_comes_back_into_it(
    registry: Registry, filled: Path, home: Path, schema: dict[str, Any] | None
) -> None:
    shutil.copytree(filled, home)
    password, city = 'hun"ter2\\x!9Q', "東京都千代田区丸の内1-2-3"
    prompt = json.dumps({"password": password, "at": city})  # as Python writes it: \u6771\u4eac
    script = stream(chunk('{"a": "<PASSWORD_1'), chunk('>", "b": "<ADD'), chunk('RESS_1>"}'),
                    chunk(finish="stop"), DONE)  # fmt: skip
    with OpenAIServer(script) as far:
        point(registry, far)
        spec = replace(TO_CLOUD, privacy=Policy.parse({"secrets": "mask"}))
        with router(registry, spec) as one:
            answer = ask(one, prompt, {"schema": schema}).text()
        assert "hun" not in json.dumps(far.asked[0].json) and "6771" not in str(far.asked[0].json)
    if schema is None:  # what stood there
        assert answer == json.dumps({"a": password, "b": city})
    else:
        assert json.loads(answer) == {"a": json.dumps(password)[1:-1], "b": city}
