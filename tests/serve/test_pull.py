"""Models that clients ask to be downloaded."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from localllm.errors import LocalLLMError
from localllm.serve.ollama.manage import remote_reference
from tests.serve.conftest import HI, chain, start
from tests.support.ollama_server import OllamaServer
from tests.support.tiny_models import tiny_chain


def test_a_pull_is_told_and_the_model_answers(tmp_path: Path) -> None:
    model = tiny_chain(tmp_path / "m.gguf", chain(HI))
    with OllamaServer() as source:
        source.push("library/greeter", "1b", [("model", model), ("system", b"Be kind.")])
        server = start(tmp_path / "home", "--threads", "1",
                       env={"LOCALLLM_OLLAMA_REGISTRY": source.url})  # fmt: skip
        try:
            lines = server.post("/api/pull", {"model": "greeter:1b"}).lines
            assert lines[-1] == {"status": "success"}
            sized = [one for one in lines if "total" in one]
            assert sized
            # Ollama's own program shows the digits 7 to 19 of each
            assert all(len(one["digest"]) == len("sha256:") + 64 for one in sized)
            assert sized[-1]["completed"] == sized[-1]["total"] >= model.stat().st_size
            ask = {"model": "greeter:1b", "stream": False, "options": {"temperature": 0},
                   "messages": [{"role": "user", "content": "x"}]}  # fmt: skip
            assert server.post("/api/chat", ask).json["message"]["content"] == HI
            missing = server.post("/api/pull", {"model": "nobody", "stream": False})
            assert missing.status == 500
            assert "nobody" in missing.json["error"]
            assert "error" in server.post("/api/pull", {"model": "nobody"}).lines[-1]
        finally:
            assert server.stop() == (0, "")


def test_who_leaves_ends_the_download(tmp_path: Path) -> None:
    """A source that never ends its answer: the child is there while we wait, and not after."""
    with socket.socket() as stuck:
        stuck.bind(("127.0.0.1", 0))
        stuck.listen(16)
        server = start(tmp_path / "home", env={
            "LOCALLLM_OLLAMA_REGISTRY": f"http://127.0.0.1:{stuck.getsockname()[1]}"
        })  # fmt: skip
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        if not children.exists():
            server.stop()
            pytest.skip("this system does not tell a process's children")
        try:
            body = json.dumps({"model": "greeter"}).encode()
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
            server.wait(lambda: children.read_text().strip())
            client.close()
            server.wait(lambda: not children.read_text().strip())
            assert server.get("/health").status == 200
        finally:
            assert server.stop() == (0, "")


@pytest.mark.parametrize(
    ("text", "reference"),
    [("llama3.2", "ollama:llama3.2"), ("llama3.2:1b", "ollama:llama3.2:1b"),
     ("org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"), ("ollama:hf.co/a/b:Q8_0", "ollama:hf.co/a/b:Q8_0"),
     ("pypi:some-model", "pypi:some-model")],
)  # fmt: skip
def test_what_names_mean(text: str, reference: str) -> None:
    assert str(remote_reference(text)) == reference


@pytest.mark.parametrize(
    "text",
    ["/etc/passwd", "file:x", "x.gguf", "http://127.0.0.1/x.gguf", "ollama:localhost:5000/x/y",
     "ollama:evil.example/x/y", ""],
)  # fmt: skip
def test_what_is_not_pulled(text: str) -> None:
    with pytest.raises(LocalLLMError):
        remote_reference(text)
