"""/v1/responses: items, their events, and conversations that go on."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.generation import Message
from localllm.serve.openai.responses_kept import Items, Kept, Stored
from localllm.serve.openai.responses_schemas import InputItem
from localllm.serve.web.problems import RequestProblem
from tests.serve.conftest import HI, Server


def ask(server: Server, **more: Any) -> Any:
    return server.post("/v1/responses", {"model": "hi", "input": "x", "temperature": 0} | more)


def test_the_events_tell_the_response(server: Server) -> None:
    events = ask(server, stream=True).events
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    kinds = [one["type"] for one in events]
    assert kinds[:4] == ["response.created", "response.in_progress",
                         "response.output_item.added", "response.content_part.added"]  # fmt: skip
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done",
                          "response.output_item.done", "response.completed"]  # fmt: skip
    deltas = [one["delta"] for one in events if one["type"] == "response.output_text.delta"]
    assert "".join(deltas) == HI
    final = events[-1]["response"]
    (item,) = final["output"]
    assert item["content"][0]["text"] == HI
    assert item["id"] == events[2]["item"]["id"]
    whole = ask(server).json
    assert {k: v for k, v in whole.items() if k not in ("id", "created_at", "output", "usage")} == {
        k: v for k, v in final.items() if k not in ("id", "created_at", "output", "usage")
    }
    assert whole["usage"]["output_tokens"] == len(HI) + 1


def test_what_was_asked_is_echoed(server: Server) -> None:
    given = {"metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k",
             "max_tool_calls": 3, "user": "u"}  # fmt: skip
    found = ask(server, text={"verbosity": "low"}, service_tier="flex", **given).json
    assert {name: found[name] for name in given} == given
    assert found["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert found["service_tier"] == "default"  # the one that served it
    assert found["background"] is False


def test_cut_off_is_incomplete(server: Server) -> None:
    found = ask(server, max_output_tokens=2).json
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found["output"][0]["content"][0]["text"] == "Hi"


def test_a_conversation_goes_on(server: Server) -> None:
    first = ask(server, instructions="be brief").json
    after = ask(server, previous_response_id=first["id"]).json
    assert after["previous_response_id"] == first["id"]
    spelled = ask(
        server,
        input=[{"role": "user", "content": "x"},
               {"type": "message", "role": "assistant", "id": "m", "status": "completed",
                "content": [{"type": "output_text", "text": HI, "annotations": []}]},
               {"role": "user", "content": [{"type": "input_text", "text": "x"}]}],
    ).json  # fmt: skip
    assert after["usage"]["input_tokens"] == spelled["usage"]["input_tokens"]
    unkept = ask(server, store=False).json
    gone = ask(server, previous_response_id=unkept["id"])
    assert gone.status == 404
    assert gone.json["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize(
    "given",
    [[], [{"type": "item_reference"}], [{"type": "function_call", "name": "f"}],
     [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}], 7],
)  # fmt: skip
def test_input_that_cannot_be_read(server: Server, given: Any) -> None:
    done = ask(server, input=given)
    assert done.status in (400, 404), done.body
    assert done.json["error"]["param"].startswith("input")


def stored(name: str, *messages: Message) -> Stored:
    item = {"type": "message", "id": f"msg_{name}", "role": "assistant", "content": "y"}
    return Stored.of(messages, Items(), {"id": name, "output": [item]})


def test_what_is_kept_is_bounded() -> None:
    kept = Kept()
    for i in range(300):
        kept.add(stored(f"r{i}", Message("user", "x" * 10)))
    assert kept.get("r299")
    reference = [InputItem(type="item_reference", id="msg_r299")]
    assert kept.resolved(reference, 1000)[0].content == "y"
    with pytest.raises(RequestProblem) as large:  # however small the request itself is
        kept.resolved(reference * 1000, 1000)
    assert large.value.status == 413
    for call in (lambda: kept.get("r0"), lambda: kept.conversation("r0"),
                 lambda: kept.resolved([InputItem(id="msg_r0")], 1000)):  # fmt: skip
        with pytest.raises(RequestProblem) as gone:
            call()
        assert gone.value.status == 404
    kept.add(stored("big", Message("user", "x" * (40 << 20))))
    with pytest.raises(RequestProblem):
        kept.get("big")
    with pytest.raises(RequestProblem):  # it took all others along
        kept.resolved(reference, 1000)


def test_what_was_stored_can_be_read_and_forgotten(server: Server) -> None:
    given = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "id": "msg_mine", "content": [{"type": "input_text", "text": "x"}]},
    ]
    first = ask(server, input=given, metadata={"a": "b"}).json
    path = f"/v1/responses/{first['id']}"
    assert server.get(path).json == first
    events = ask(server, stream=True).events
    assert server.get(f"/v1/responses/{events[0]['response']['id']}").json == events[-1]["response"]

    def listed(query: str = "") -> Any:
        return server.get(f"{path}/input_items{query}").json

    page = listed()
    assert [one["role"] for one in page["data"]] == ["user", "developer"]
    assert page["data"][0]["id"] == "msg_mine"
    assert page["data"][1]["content"] == [{"type": "input_text", "text": "be brief"}]
    assert page["has_more"] is False
    one = listed("?order=asc&limit=1")
    assert (one["data"], one["has_more"]) == ([page["data"][1]], True)
    assert listed(f"?order=asc&limit=1&after={one['last_id']}")["data"] == [page["data"][0]]
    for wrong in ("?limit=0", "?limit=x", "?order=up", "?after=nobody"):
        assert server.get(f"{path}/input_items{wrong}").status == 400
    assert server.get(f"{path}?stream=true").status == 400
    gone = server.ask("DELETE", path)
    assert gone.json == {"id": first["id"], "object": "response", "deleted": True}
    for method, what in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
        assert server.ask(method, what).status == 404
    assert server.get(f"/v1/responses/{ask(server, store=False).json['id']}").status == 404


def test_items_are_referred_to(server: Server) -> None:
    """What Vercel's AI SDK sends as the second turn of every conversation."""
    first = ask(server).json
    (item,) = first["output"]
    user = {"role": "user", "content": "x"}
    referred = ask(server, input=[user, {"type": "item_reference", "id": item["id"]}, user]).json
    spelled = ask(server, input=[user, item, user]).json
    assert referred["usage"]["input_tokens"] == spelled["usage"]["input_tokens"]
    bare = ask(server, input=[user, {"id": item["id"]}, user]).json  # the type may be left out
    assert bare["usage"]["input_tokens"] == spelled["usage"]["input_tokens"]
    (asked,) = server.get(f"/v1/responses/{first['id']}/input_items").json["data"]
    again = ask(server, input=[{"type": "item_reference", "id": asked["id"]}, item, user]).json
    assert again["usage"]["input_tokens"] == spelled["usage"]["input_tokens"]
    listed = server.get(f"/v1/responses/{referred['id']}/input_items?order=asc").json["data"]
    assert listed[1]["id"] == item["id"]
    assert listed[1]["content"][0]["text"] == HI
    unkept = ask(server, store=False).json["output"][0]["id"]
    gone = ask(server, input=[user, {"type": "item_reference", "id": unkept}])
    assert (gone.status, gone.json["error"]["param"]) == (404, "input[1]")


def test_tokens_are_counted_before(server: Server) -> None:
    def count(**more: Any) -> Any:
        return server.post("/v1/responses/input_tokens", {"model": "hi", "input": "x"} | more)

    found = ask(server, instructions="be brief").json
    n_tokens = count(instructions="be brief").json
    assert n_tokens == {
        "object": "response.input_tokens", "input_tokens": found["usage"]["input_tokens"]
    }  # fmt: skip
    after = ask(server, previous_response_id=found["id"]).json
    counted = count(previous_response_id=found["id"]).json["input_tokens"]
    assert counted == after["usage"]["input_tokens"]
    assert count(input="word " * 900).json["input_tokens"] > 512  # more than the context holds
    assert count(model="nothing").status == 404
    assert count(input=7).status == 400
