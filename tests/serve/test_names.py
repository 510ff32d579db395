"""The names that clients find a model by, and what they take for the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from localllm.registry import Registry
from tests.serve.conftest import HI, Server, add, chain, start
from tests.support.tiny_models import tiny_chain

USER = [{"role": "user", "content": "x"}]


def _tags(server: Server) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in server.get("/api/tags").json["models"]}


def test_a_copy_is_listed_and_called_by_its_own_name(tmp_path: Path) -> None:
    path = tiny_chain(tmp_path / "h.gguf", chain(HI))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    add(Registry(tmp_path / "home"), "hi", path)
    server = start(tmp_path / "home", "--threads", "1", "--ctx", "512")
    try:
        copied = server.post("/api/copy", {"source": "hi", "destination": "second"})
        assert copied.status == 200
        assert {one["id"] for one in server.get("/v1/models").json["data"]} == {"hi", "second"}
        assert server.get("/v1/models/second").json["id"] == "second"
        made = server.post("/api/create", {
            "model": "polite", "from": "hi", "system": "Be polite.", "stream": False,
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        })  # fmt: skip
        assert made.json == {"status": "success"}
        found = _tags(server)
        assert set(found) == {"hi", "second", "polite"}
        # Clients take names of one digest for one model and ask the first of them.
        assert found["hi"]["digest"] == found["second"]["digest"] == sha256
        assert found["polite"]["digest"] != sha256
        shown = server.post("/api/show", {"model": "polite"}).json
        assert shown["messages"] == [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        ]  # fmt: skip
        asked = server.post("/api/chat", {"model": "second", "messages": USER, "stream": False})
        assert asked.json["model"] == "second"
        assert {one["name"] for one in server.get("/api/ps").json["models"]} == {"second"}
        assert server.ask("DELETE", "/api/delete", {"model": "second"}).status == 200
        assert set(_tags(server)) == {"hi", "polite"}
    finally:
        assert server.stop() == (0, "")


def test_adapters_and_scales_tell_names_apart(tmp_path: Path) -> None:
    from tests.support.tiny_models import tiny_llama, tiny_lora

    home = tmp_path / "home"
    add(Registry(home), "base", tiny_llama(tmp_path / "b.gguf"), architecture="llama")
    lora = tiny_lora(tmp_path / "l.gguf")
    server = start(home, "--threads", "1", "--ctx", "256", "--alias", f"weak=base+{lora}:0.5",
                   "--alias", f"full=base+{lora}", "--alias", "plain=base")  # fmt: skip
    try:
        found = {name: one["digest"] for name, one in _tags(server).items()}
        assert found["base"] == found["plain"]
        assert len({found["base"], found["weak"], found["full"]}) == 3
    finally:
        assert server.stop() == (0, "")
