"""What clients beside the official ones send: LangChain, LlamaIndex, vLLM's users ..."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import HI, Server, start

USER = [{"role": "user", "content": "x"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


# --- OpenAI ----------------------------------------------------------------------------------


def test_every_answer_has_an_id_of_its_request(own_home: Path) -> None:
    """The official clients show it as `_request_id`; the log has it too."""
    server = start(own_home, "--threads", "1", "--log-requests")
    asked: list[Any] = [("GET", "/v1/models", None), ("GET", "/v1/nothing", None),
                        ("POST", CHAT, {"model": "hu"}), ("POST", "/api/chat", b"{")]  # fmt: skip
    ids = [server.ask(*one).headers["x-request-id"] for one in asked]
    assert all(one.startswith("req_") for one in ids)
    assert len(set(ids)) == len(ids)
    status, said = server.stop()
    assert status == 0
    logged = [json.loads(line) for line in said.splitlines()]
    assert [one["request_id"] for one in logged if one["event"] == "request"] == ids


@pytest.mark.parametrize(
    ("name", "value"),
    [("guided_choice", ["yes", "no"]), ("guided_json", {}), ("guided_regex", "a+"),
     ("guided_grammar", "root ::= x"), ("structured_outputs", {"choice": ["a"]}),
     ("json_schema", {"type": "object"})],
)  # fmt: skip
def test_other_servers_grammars_are_refused(server: Server, name: str, value: Any) -> None:
    """They would be let pass as unknown, and the answer would not keep to them."""
    for path, asked in ((CHAT, {"messages": USER}), (TEXT, {"prompt": "x"})):
        body = {"model": "hi", **asked, name: value}
        refused = server.post(path, body)
        assert (refused.status, refused.json["error"]["param"]) == (400, name)
        assert "response_format" in refused.json["error"]["message"]
        assert server.post(path, body | {name: None}).status == 200


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
         "messages[0].content[0]: type is 'input_audio'; what is read here: 'text', 'input_text', "
         "'output_text', 'image_url', 'refusal'"),
        ({"stop": 5}, "stop: input should be a valid string or a valid array"),
        ({"n": 0}, "n: input should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_plain_words(server: Server, more: Any, message: str) -> None:
    refused = server.post(CHAT, {"model": "hi", "messages": USER} | more)
    assert (refused.status, refused.json["error"]["message"]) == (400, message)


# --- Ollama ----------------------------------------------------------------------------------


def test_how_much_to_think(server: Server) -> None:
    body = {"model": "hi", "messages": USER, "stream": False, "options": {"temperature": 0}}
    for think in (True, False, "low", "medium", "high", "max"):
        found = server.post("/api/chat", body | {"think": think})
        assert found.json["message"]["content"] == HI
    refused = server.post("/api/chat", body | {"think": "often"})
    assert refused.json["error"] == (
        "think: input should be a valid boolean or 'low', 'medium', 'high' or 'max'"
    )


def test_a_template_in_the_models_place(server: Server) -> None:
    """LangChain's OllamaLLM and the official client hand one over for a single prompt."""
    body = {"model": "hi", "prompt": "ask", "system": "sys", "stream": False,
            "options": {"temperature": 0}}  # fmt: skip
    template = "{{ if .System }}S: {{ .System }} {{ end }}Q: {{ .Prompt }}\n"
    found = server.post("/api/generate", body | {"template": template}).json
    assert found["response"] == HI  # it follows a new line
    spelled = {**body, "prompt": "S: sys Q: ask\n", "raw": True, "system": None}
    raw = server.post("/api/generate", spelled).json
    assert raw["response"] == HI
    assert found["prompt_eval_count"] == raw["prompt_eval_count"]
    own = server.post("/api/generate", body).json
    assert own["prompt_eval_count"] != found["prompt_eval_count"]
    without = server.post("/api/generate", body | {"template": ""}).json
    assert without["prompt_eval_count"] == own["prompt_eval_count"]


def test_a_file_is_refused_with_what_to_do(server: Server) -> None:
    """The official clients send a file's bytes first, however large, and show what comes back."""
    refused = server.post("/api/blobs/sha256:" + "0" * 64, b"x" * (8 << 20))
    assert refused.status == 400
    assert "localllm pull" in refused.json["error"]
    create = {"model": "x", "files": {"a.gguf": "sha256:0"}}
    assert server.post("/api/create", create).json == refused.json
