"""The official clients do their ordinary calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.conftest import HI, Server

openai = pytest.importorskip("openai", reason="pip install 'localllm[test]'")
ollama = pytest.importorskip("ollama", reason="pip install 'localllm[test]'")

USER = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


@pytest.fixture
def client(server: Server) -> Any:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_openai_chat_and_stream(client: Any) -> None:
    answer = client.chat.completions.create(model="hi", messages=USER, temperature=0)
    assert answer.choices[0].message.content == HI
    stream = client.chat.completions.create(
        model="hi", messages=USER, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == HI
    assert chunks[-1].usage.completion_tokens == len(HI) + 1


def test_openai_stream_helper_and_tools(client: Any) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    with client.chat.completions.stream(
        model="tools", messages=USER, tools=[TOOL], tool_choice=choice, max_tokens=300, seed=1
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    (call,) = final.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"a", "b"}


def test_openai_parses_into_a_model(client: Any) -> None:
    from pydantic import BaseModel

    class Point(BaseModel):
        x: int
        label: str

    answer = client.chat.completions.parse(
        model="tiny", messages=USER, response_format=Point, max_tokens=300, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Point)


def test_openai_completions_embeddings_models(client: Any) -> None:
    answer = client.completions.create(model="hi", prompt="x\n", temperature=0)
    assert answer.choices[0].text == HI
    vector = client.embeddings.create(model="bert", input="hello").data[0].embedding
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)
    assert {one.id for one in client.models.list()} >= {"hi", "bert"}
    assert client.models.retrieve("hi").id == "hi"


def test_openai_responses(client: Any) -> None:
    answer = client.responses.create(model="hi", input="hello", temperature=0)
    assert answer.output_text == HI
    assert answer.status == "completed"
    after = client.responses.create(
        model="hi", input="again", previous_response_id=answer.id, temperature=0
    )
    assert after.output_text == HI
    assert after.usage.input_tokens > answer.usage.input_tokens + len(HI)
    with client.responses.stream(model="hi", input="hello", temperature=0) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == HI


def test_openai_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="hu", messages=USER)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(
            model="hi", messages=[{"role": "user", "content": "word " * 900}]
        )
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="hi", messages=USER, temperature=9)


def test_ollama_client(server: Server) -> None:
    client = ollama.Client(host=server.url)
    options = {"temperature": 0}
    assert client.chat("hi", USER, options=options).message.content == HI
    pieces = list(client.chat("hi", USER, stream=True, options=options))
    assert "".join(one.message.content or "" for one in pieces) == HI
    assert pieces[-1].done and (pieces[-1].eval_duration or 0) > 0
    assert client.generate("hi", "hello", options=options).response == HI
    assert len(client.embed("bert", ["a", "b"]).embeddings) == 2
    assert {one.model for one in client.list().models} >= {"hi", "tiny"}
    assert client.show("tiny").modelinfo["general.architecture"] == "llama"
    assert "hi" in {one.name for one in client.ps().models}
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat("nothing", USER)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError):
        list(client.chat("hi", USER, stream=True, format={"type": "odd"}))


def test_ollama_manages(own_home: Any) -> None:
    from tests.serve.conftest import start

    server = start(own_home, "--threads", "1")
    try:
        client = ollama.Client(host=server.url)
        assert client.copy("hi", "greeter").status == "success"
        answer = client.chat("greeter", USER, options={"temperature": 0})
        assert answer.message.content == HI
        assert client.delete("greeter").status == "success"
        made = client.create(
            "polite", from_="tiny", system="Be polite.", parameters={"num_predict": 3, "seed": 5}
        )
        assert made.status == "success"
        shown = client.show("polite")
        assert "Be polite." in (shown.modelfile or "")
        asked = client.chat("polite", USER)
        plain = client.chat("tiny", USER, options={"num_predict": 3})
        assert asked.eval_count == 3
        assert (asked.prompt_eval_count or 0) > (plain.prompt_eval_count or 0)
        loaded = client.ps().models
        assert len({one.digest for one in loaded}) == len(loaded)  # both share the weights
        with pytest.raises(ollama.ResponseError):
            client.create("bad", from_="/etc/passwd")
        with pytest.raises(ollama.ResponseError):
            client.create("bad", from_="tiny", adapters={"x": "sha256:0"})
        assert client.delete("tiny").status == "success"
        left = {one.model for one in client.list().models}
        assert left == {"tools", "hi", "loop", "bert", "polite"}
        assert client.chat("polite", USER).eval_count == 3  # its files are its own
        with pytest.raises(ollama.ResponseError):
            client.delete("tiny")
    finally:
        assert server.stop() == (0, "")


def test_langchain(server: Server) -> None:
    langchain = pytest.importorskip("langchain_openai")
    more = {"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0}
    model = langchain.ChatOpenAI(model="hi", temperature=0, **more)
    assert model.invoke("hello").content == HI
    assert "".join(str(chunk.content) for chunk in model.stream("hello")) == HI
    caller = langchain.ChatOpenAI(model="tools", max_tokens=300, seed=1, **more).bind_tools(
        [TOOL], tool_choice="add"
    )
    (call,) = caller.invoke("hello").tool_calls
    assert call["name"] == "add"
    assert set(call["args"]) == {"a", "b"}
    vectors = langchain.OpenAIEmbeddings(
        model="bert", check_embedding_ctx_length=False, **more
    ).embed_documents(["hello", "world"])
    assert len(vectors) == 2
