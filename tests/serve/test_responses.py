"""/v1/responses: items, their events, and conversations that go on."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.generation import Message
from localllm.serve.openai.responses import Kept
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
    [[], [{"type": "item_reference", "id": "x"}], [{"type": "function_call", "name": "f"}],
     [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}], 7],
)  # fmt: skip
def test_input_that_cannot_be_read(server: Server, given: Any) -> None:
    done = ask(server, input=given)
    assert done.status == 400, done.body
    assert done.json["error"]["param"].startswith("input")


def test_what_is_kept_is_bounded() -> None:
    kept = Kept()
    for i in range(300):
        kept.add(f"r{i}", (Message("user", "x" * 10),))
    assert kept.get("r299")
    with pytest.raises(RequestProblem):
        kept.get("r0")
    kept.add("big", (Message("user", "x" * (40 << 20)),))
    with pytest.raises(RequestProblem):
        kept.get("big")
