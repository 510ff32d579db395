"""Answers over real connections, right ones and wrong ones."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.endpoints import (
    ContextFull,
    Endpoint,
    EndpointBroken,
    EndpointBusy,
    EndpointGenerator,
    EndpointSilent,
    KeySource,
    RequestRefused,
)
from localllm.errors import AccessDenied, LocalLLMError, SourceFailed, SourceUnreachable
from localllm.generation import Sampling
from localllm.toolcalls import CallArguments, CallEnd, CallStart, Tool, ToolCall
from tests.endpoints.conftest import ask, endpoint, said
from tests.support.openai_server import (
    DONE,
    SSE,
    Asked,
    OpenAIServer,
    Script,
    answer,
    chunk,
    event,
    raw,
    stream,
    usage,
)

SECRET = "sk-very-secret-4711"


def test_text_usage_and_who_answered() -> None:
    script = stream(
        chunk(delta={"role": "assistant", "content": ""}), chunk("Hel"), chunk("lo"),
        chunk(finish="stop"), usage(10, 2, cached=4), DONE,
    )  # fmt: skip
    with OpenAIServer(script) as server:
        found = said(server, endpoint(server, price_in=1.0, price_out=10.0))
    account = found.accounting
    assert account is not None
    assert found.answer == "Hello"  # type: ignore[attr-defined]
    assert (account.prompt_tokens, account.cached_tokens, account.completion_tokens) == (10, 4, 2)
    assert (account.finish_reason, account.truncated, account.counted) == ("stop", False, True)
    assert (found.model, account.model) == ("remote", "remote")
    assert account.cost == pytest.approx(10 / 1e6 + 20 / 1e6)
    assert account.seed == -1
    assert 0 < account.first_token_s < 30
    assert server.asked[0].path == "/v1/chat/completions"
    assert "authorization" not in server.asked[0].headers


def test_the_servers_own_times_are_better_than_ours() -> None:
    timings = {"prompt_ms": 150.0, "predicted_ms": 25.0, "cache_n": 3}
    script = stream(chunk("a"), chunk(finish="stop", timings=timings), usage(5, 1), DONE)
    with OpenAIServer(script) as server:
        account = said(server).accounting
    assert account is not None
    assert (account.prompt_s, account.decode_s) == (0.15, 0.025)


def test_without_usage_tokens_are_estimated_and_said_to_be() -> None:
    with OpenAIServer(stream(chunk("a"), chunk("b"), chunk(finish="stop"), DONE)) as server:
        account = said(server, endpoint(server, price_in=1.0)).accounting
    assert account is not None
    assert account.completion_tokens == 2  # a piece each
    assert account.prompt_tokens == 6  # "hello" at four bytes a token, and four around it
    assert (account.counted, account.doubt) == (False, None)
    assert account.cost == pytest.approx(6e-6)


def test_another_model_than_was_asked_is_recorded() -> None:
    lie = chunk("a", finish="stop").replace(b'"remote"', b'"gpt-2\\u001b[31m"')
    with OpenAIServer(stream(lie, DONE)) as server:
        assert said(server).model == "gpt-2 [31m"


def test_thinking_apart_from_the_answer() -> None:
    own = stream(chunk(delta={"reasoning_content": "hm"}), chunk("yes", finish="stop"), DONE)
    marked = stream(chunk("<thi"), chunk("nk>hm</think>\nyes"), chunk(finish="stop"), DONE)
    for script in (own, marked):
        with OpenAIServer(script) as server:
            found = said(server)
        assert (found.thinking, found.answer) == ("hm", "yes")  # type: ignore[attr-defined]


def call(index: int, text: str = "", name: str | None = None, **more: Any) -> bytes:
    function: dict[str, Any] = {"arguments": text} if name is None else {
        "name": name, "arguments": text
    }  # fmt: skip
    return chunk(delta={"tool_calls": [{"index": index, "function": function, **more}]})


def test_tool_calls_in_pieces() -> None:
    script = stream(
        call(0, name="add", id="c1"), call(0, '{"a":'), call(0, " 1}"),
        call(1, "{}", name="now", id="c2"), chunk(finish="tool_calls"), usage(1, 1), DONE,
    )  # fmt: skip
    with OpenAIServer(script) as server, EndpointGenerator(endpoint(server)) as made:
        found = ask(made, tools=(Tool("add"), Tool("now")))
        parts = list(found.parts())
    assert parts == [
        CallStart("c1", "add"), CallArguments('{"a":'), CallArguments(" 1}"), CallEnd(),
        CallStart("c2", "now"), CallArguments("{}"), CallEnd(),
    ]  # fmt: skip
    assert found.calls == (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "now", "{}"))


def test_whole_calls_without_number_or_id() -> None:
    """As Gemini's and Ollama's interfaces send them."""
    one = {"function": {"name": "add", "arguments": {"a": 1}}}
    script = stream(chunk(delta={"tool_calls": [one, one]}), chunk(finish="stop"), DONE)
    with OpenAIServer(script) as server:
        found = said(server)
    assert [(c.name, json.loads(c.arguments)) for c in found.calls] == [("add", {"a": 1})] * 2
    assert len({c.id for c in found.calls}) == 2


def test_a_server_that_does_not_stream() -> None:
    message = {"role": "assistant", "content": "Hello"}
    whole = {
        "model": "remote", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }  # fmt: skip
    with OpenAIServer(answer(whole)) as server:
        found = said(server)
    assert found.answer == "Hello"  # type: ignore[attr-defined]
    assert found.accounting is not None
    assert found.accounting.completion_tokens == 1


def test_an_answer_that_was_cut_off_by_the_server() -> None:
    with OpenAIServer(stream(chunk("a", finish="length"), usage(4, 1), DONE)) as server:
        cut = said(server).accounting
        asked = said(server, sampling=Sampling(max_tokens=1)).accounting
    assert cut is not None
    assert asked is not None
    assert (cut.finish_reason, cut.truncated) == ("length", True)
    assert (asked.finish_reason, asked.truncated) == ("length", False)


# --- what servers do wrong -------------------------------------------------------------------


def hang(connection: socket.socket, asked: Asked) -> None:
    time.sleep(20)


def hang_after(*pieces: bytes) -> Script:
    def script(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"\r\n" + b"".join(pieces))
        time.sleep(20)

    return script


def endless(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(SSE + b"\r\n")
    while True:
        connection.sendall(b"data: " + b"x" * 65536)


def pinging(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(SSE + b"\r\n")
    while True:
        connection.sendall(b": still here\n\n")
        time.sleep(0.05)


WRONG: list[tuple[str, Script, type[LocalLLMError], str]] = [
    ("hangs", hang, EndpointSilent, "did not answer within 0.4 s"),
    ("hangs after the head", hang_after(), EndpointSilent, "began no answer within 0.4 s"),
    ("only pings", pinging, EndpointSilent, "began no answer within 0.4 s"),
    ("hangs in the answer", hang_after(chunk("a")), EndpointSilent, "went silent"),
    ("closes at once", lambda c, a: None, EndpointBroken, "without a word"),
    ("closes early", stream(chunk("a")), EndpointBroken, "broke its answer off"),
    ("says nothing", stream(DONE), EndpointBroken, "broke its answer off"),
    ("no JSON", stream(b"data: {oh no\n\n"), EndpointBroken, "no JSON: '{oh no'"),
    ("deep JSON", stream(b"data: " + b"[" * 100_000 + b"\n\n"), EndpointBroken, "no JSON"),
    ("a list", stream(event([1])), EndpointBroken, "no object"),
    ("odd choices", stream(event({"choices": 7})), EndpointBroken, "no list"),
    ("an odd choice", stream(event({"choices": ["x"]})), EndpointBroken, "no object"),
    ("an odd delta", stream(event({"choices": [{"delta": 3}]})), EndpointBroken, "delta"),
    ("sample 9", stream(chunk("a", index=9)), EndpointBroken, "sample 9"),
    ("a call of nothing", stream(call(0, "{}")), EndpointBroken, "no name"),
    ("error in a stream", stream(chunk("a"), event({"error": {"message": "out of\nmemory"}})),
     SourceFailed, "in the middle of its answer: out of memory"),
    ("full context in a stream",
     stream(event({"error": {"message": "x", "code": "context_length_exceeded"}})),
     ContextFull, "too long"),
    ("a web page", answer(b"<html>Welcome", headers={"Content-Type": "text/html"}),
     EndpointBroken, "text/html"),
    ("no HTTP", raw(b"SSH-2.0-OpenSSH\r\n"), EndpointBroken, "HTTP"),
    ("500", answer({"error": {"message": "boom"}}, "500 Oh"), SourceFailed, "(status 500): boom"),
    ("500 with a page", answer(b"<html>nginx</html>", "502 Bad"), SourceFailed, "(status 502)"),
    ("404", answer({"error": "no model"}, "404 No"), RequestRefused, "no such model"),
    ("400", answer({"detail": "bad"}, "400 No"), RequestRefused, "(status 400)"),
    ("400 long", answer({"error": {"message": "y" * 9000}}, "400 No"), RequestRefused, "yyy…"),
    ("full context",
     answer({"error": {"message": "maximum context length is 8192 tokens"}}, "400 No"),
     ContextFull, "8192"),
    ("sends elsewhere", answer(b"", "301 Moved", {"Location": "http://evil/"}), SourceFailed,
     "elsewhere"),
    ("429", answer({"error": {"message": "slow"}}, "429 No", {"Retry-After": "3600"}),
     EndpointBusy, "busy"),
    ("no money", answer({"error": {"message": "q", "code": "insufficient_quota"}}, "429 No"),
     AccessDenied, "credit"),
    ("401", answer({"error": {"message": "who?"}}, "401 No"), AccessDenied, "wants a key"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "kind", "words"), [w[1:] for w in WRONG],
                         ids=[w[0] for w in WRONG])  # fmt: skip
def test_one_clear_line(script: Script, kind: type[LocalLLMError], words: str) -> None:
    with OpenAIServer(script) as server:
        made = endpoint(server, timeout_s=0.4)
        with EndpointGenerator(made) as generator:
            found = ask(generator)
            with pytest.raises(kind) as caught:
                found.text()
    error = caught.value
    assert words in error.message
    assert "far" in error.message
    assert "\n" not in error.message + (error.hint or "")
    assert len(error.message) < 500
    assert int(error.exit_code) == 6
    assert found.accounting is not None  # iteration has ended


def test_too_much_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from localllm.endpoints import Patience

    small = Patience(answer_bytes=1 << 20, event_bytes=1 << 20)
    monkeypatch.setattr(Endpoint, "patience", property(lambda self: small))
    with OpenAIServer(endless) as server, pytest.raises(EndpointBroken, match="more than 1 MiB"):
        said(server)


def test_the_whole_answer_has_a_time_too() -> None:
    def slowly(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"\r\n")
        while True:
            connection.sendall(chunk("a"))
            time.sleep(0.02)

    with OpenAIServer(slowly) as server:
        made = endpoint(server, total_s=0.4)
        with pytest.raises(EndpointSilent, match=r"no end within 0\.4 s"):
            said(server, made)


def test_a_list_of_models_has_the_endpoints_time_and_says_which_ran_out() -> None:
    with (
        OpenAIServer(hang) as server,
        EndpointGenerator(endpoint(server, timeout_s=0.6)) as made,
        pytest.raises(EndpointSilent, match=r"did not answer within 0\.6 s"),
    ):
        made.models()


def test_the_time_that_ran_out_is_the_requests_own_where_that_is_shorter() -> None:
    with (
        OpenAIServer(hang) as server,
        EndpointGenerator(endpoint(server, timeout_s=30.0)) as made,
    ):
        stream = ask(made, deadline_s=0.5)
        with pytest.raises(EndpointSilent, match=r"did not answer within 0\.5 s"):
            stream.text()


def test_an_end_without_done_is_an_end_once_it_was_said() -> None:
    with OpenAIServer(stream(chunk("a", finish="stop"))) as server:
        assert said(server).answer == "a"  # type: ignore[attr-defined]


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    made = Endpoint("far", f"http://127.0.0.1:{port}/v1", "m")
    with EndpointGenerator(made) as generator, pytest.raises(SourceUnreachable) as caught:
        ask(generator).text()
    assert caught.value.message == f"far (127.0.0.1:{port}) cannot be reached: connection refused"


def test_a_certificate_that_is_not_trusted(certificate: Path) -> None:
    with OpenAIServer(stream(DONE), certificate) as server:
        with pytest.raises(SourceUnreachable, match="not trusted") as caught:
            said(server)
        plain = Endpoint("far", server.url.replace("https", "http"), "m", timeout_s=2.0)
        with EndpointGenerator(plain) as generator, pytest.raises(SourceFailed):
            ask(generator).text()
    assert "SSL_CERT_FILE" in (caught.value.hint or "")


# --- trying again ------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    busy = answer({"error": {"message": "slow"}}, "503 No", {"Retry-After": "0"})
    good = stream(chunk("a", finish="stop"), DONE)
    with OpenAIServer([busy, busy, good]) as server:
        assert said(server).answer == "a"  # type: ignore[attr-defined]
    assert len(server.asked) == 3


def test_an_answer_that_has_begun_is_never_asked_for_again() -> None:
    with OpenAIServer([stream(chunk("a")), stream(chunk("b", finish="stop"), DONE)]) as server:
        with pytest.raises(EndpointBroken):
            said(server)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("message", "gone", "there"),
    [("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", "max_tokens",
      "max_completion_tokens"),
     ("unknown field stream_options", "stream_options", "max_tokens")],
)  # fmt: skip
def test_older_and_newer_servers_are_asked_their_way(message: str, gone: str, there: str) -> None:
    refused = answer({"error": {"message": message}}, "400 No")
    good = stream(chunk("a", finish="stop"), DONE)
    server = OpenAIServer([refused, good, good])
    with server, EndpointGenerator(endpoint(server)) as made:
        for _ in range(2):  # it is remembered
            assert ask(made, sampling=Sampling(max_tokens=7)).text() == "a"
    first, *later = [one.json for one in server.asked]
    assert gone in first
    assert len(later) == 2
    assert all(gone not in sent and there in sent for sent in later)


def test_a_refusal_that_only_names_a_field_is_forgotten() -> None:
    """The value was wrong and not the field: the next request has it again."""
    refused = answer({"error": {"message": "max_tokens: 7 is more than I give"}}, "400 No")
    good = stream(chunk("a", finish="stop"), DONE)
    server = OpenAIServer([refused, refused, good])
    with server, EndpointGenerator(endpoint(server)) as made:
        with pytest.raises(RequestRefused):
            ask(made, sampling=Sampling(max_tokens=7)).text()
        assert ask(made, sampling=Sampling(max_tokens=5)).text() == "a"
    assert server.asked[-1].json["max_tokens"] == 5


# --- giving up ---------------------------------------------------------------------------------


def streaming(server: Callable[[], OpenAIServer]) -> Script:
    def script(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"\r\n" + chunk("a"))
        server().until_gone(connection)

    return script


def test_cancel_closes_the_connection_and_keeps_the_account() -> None:
    server = OpenAIServer(streaming(lambda: server))
    with server, EndpointGenerator(endpoint(server)) as made:
        found = ask(made)
        pieces = iter(found)
        assert next(pieces).text == "a"
        found.cancel()
        assert list(pieces) == []
        assert server.gone.wait(10)
    assert found.accounting is not None
    assert found.accounting.finish_reason == "cancelled"
    assert found.accounting.completion_tokens == 1


def test_cancel_before_the_first_byte_and_from_another_thread() -> None:
    def script(connection: socket.socket, asked: Asked) -> None:
        server.until_gone(connection)

    server = OpenAIServer(script)
    with server, EndpointGenerator(endpoint(server)) as made:
        found = ask(made)
        threading.Timer(0.2, found.cancel).start()
        assert list(found) == []
        assert server.gone.wait(10)
        never = ask(made)
        never.cancel()
        assert list(never) == []
    for one in (found, never):
        assert one.accounting is not None
        assert one.accounting.finish_reason == "cancelled"


def test_many_at_once_on_one_thread() -> None:
    together = threading.Barrier(16, timeout=20)

    def script(connection: socket.socket, asked: Asked) -> None:
        together.wait()  # answered only when all are there
        stream(chunk(asked.json["messages"][0]["content"]), chunk(finish="stop"), DONE)(
            connection, asked
        )

    from localllm.generation import Message

    def one(number: int) -> None:
        found = ask(made, messages=(Message("user", str(number)),))
        texts[number] = found.text()

    texts: dict[int, str] = {}
    with OpenAIServer(script) as server, EndpointGenerator(endpoint(server)) as made:
        threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == {i: str(i) for i in range(16)}
    assert sum(t.name == "localllm-endpoints" for t in threading.enumerate()) == 1


# --- keys ------------------------------------------------------------------------------------


def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", f" {SECRET}\n")
    echo = answer({"error": {"message": f"wrong key {SECRET} given"}}, "401 No")
    with OpenAIServer(echo) as server:
        made = endpoint(server, key=KeySource(env="FAR_KEY"))
        with EndpointGenerator(made) as generator, pytest.raises(AccessDenied) as caught:
            ask(generator).text()
        assert SECRET not in repr(generator.__dict__) + repr(generator._client.__dict__)
    assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    assert "environment variable FAR_KEY" in caught.value.message
    assert SECRET not in caught.value.message + (caught.value.hint or "")


def test_a_key_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    with OpenAIServer(stream(DONE)) as server:
        with pytest.raises(AccessDenied, match="FAR_KEY holds no key"):
            EndpointGenerator(endpoint(server, key=KeySource(env="FAR_KEY")))
        monkeypatch.setenv("FAR_KEY", "two words")
        with pytest.raises(AccessDenied, match="cannot be a key") as caught:
            EndpointGenerator(endpoint(server, key=KeySource(env="FAR_KEY")))
    assert "two words" not in caught.value.message
    assert not server.asked


def test_a_key_in_place_of_its_variables_name_is_not_repeated() -> None:
    from localllm.errors import UsageProblem

    with pytest.raises(UsageProblem) as caught:
        KeySource(env=SECRET)
    assert SECRET not in caught.value.message


def test_keys_of_the_system_keyring() -> None:
    keyring = pytest.importorskip("keyring", reason="pip install 'localllm[keyring]'")
    from keyring.backend import KeyringBackend

    class Kept(KeyringBackend):  # type: ignore[misc]
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            return SECRET if (service, username) == ("localllm", "far") else None

        def set_password(self, service: str, username: str, password: str) -> None: ...

        def delete_password(self, service: str, username: str) -> None: ...

    before = keyring.get_keyring()
    keyring.set_keyring(Kept())
    try:
        with OpenAIServer(stream(chunk("a", finish="stop"), DONE)) as server:
            said(server, endpoint(server, key=KeySource(entry="far")))
            with pytest.raises(AccessDenied, match="has no key under localllm/other"):
                EndpointGenerator(endpoint(server, key=KeySource(entry="other")))
        assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    finally:
        keyring.set_keyring(before)


# --- the rest of the API -----------------------------------------------------------------------


def test_vectors() -> None:
    data = [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1.5, 0]}]
    good = answer({"data": data, "usage": {"prompt_tokens": 5}, "model": "e"})
    with OpenAIServer(good) as server, EndpointGenerator(endpoint(server)) as made:
        found = made.embed(["a", "b"])
        with pytest.raises(EndpointBroken, match="3 texts"):
            made.embed(["a", "b", "c"])
    assert found.rows == ((1.5, 0.0), (0.0, 1.0))
    assert (found.n_tokens, found.model) == (5, "e")
    assert server.asked[0].json["input"] == ["a", "b"]


@pytest.mark.parametrize("lie", [-3, True, "5", 10**9, 1.5, None])
def test_vectors_of_a_server_that_counts_what_cannot_be(lie: Any) -> None:
    script = answer({"data": [{"embedding": [1.5, 0]}], "usage": {"prompt_tokens": lie}})
    with OpenAIServer(script) as server, EndpointGenerator(endpoint(server)) as made:
        assert made.embed(["a"]).n_tokens is None


def test_a_vector_of_numbers_beyond_all_is_none() -> None:
    script = answer({"data": [{"embedding": [10**400]}]})
    with (
        OpenAIServer(script) as server,
        EndpointGenerator(endpoint(server)) as made,
        pytest.raises(EndpointBroken, match="no vectors"),
    ):
        made.embed(["a"])


@pytest.mark.parametrize(
    ("entry", "headers", "kind"),
    [
        ({"owned_by": "vllm", "max_model_len": 4096}, {}, "vllm"),
        ({"owned_by": "llamacpp", "meta": {"n_ctx_train": 4096}}, {}, "llama.cpp"),
        ({}, {"Server": "llama.cpp"}, "llama.cpp"),
        ({"quantization": "F16", "n_ctx_train": 4096, "owned_by": "local"}, {}, "localllm"),
        ({"owned_by": "library"}, {}, "ollama"),
        ({"owned_by": "openai"}, {}, None),
    ],
)
def test_who_is_there(entry: dict[str, Any], headers: dict[str, str], kind: str | None) -> None:
    script = answer({"data": [{"id": "m", **entry}, "odd", {"id": 7}]}, headers=headers)
    with OpenAIServer(script) as server, EndpointGenerator(endpoint(server)) as made:
        found = made.models()
    assert [one.id for one in found.models] == ["m"]
    assert found.kind == kind
    assert found.models[0].n_ctx == (4096 if len(entry) > 1 else None)


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    good = stream(chunk("a", finish="stop"), DONE)
    with OpenAIServer(good) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        made = Endpoint("far", "http://far.example/v1", "m")
        with EndpointGenerator(made) as generator:
            assert ask(generator).text() == "a"
        # this machine itself needs none
        with OpenAIServer(good) as server:
            said(server)
        assert len(server.asked) == 1
    assert [one.path for one in proxy.asked] == ["http://far.example/v1/chat/completions"]
