"""endpoint add, list, show, rm, check, against servers that say what they like."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.errors import UsageProblem
from localllm.registry import Model, Registry
from localllm.registry.endpoints import Endpoints
from tests.conftest import Done, arrival
from tests.support.openai_server import (
    DONE,
    Asked,
    OpenAIServer,
    Script,
    answer,
    chunk,
    stream,
    usage,
)

Cli = Callable[..., Done]
SECRET = "sk-very-secret-4711"


def api(*models: str, **entry: Any) -> Script:
    """A small server: a list of models, and "Hi" to everything."""

    def script(connection: Any, asked: Asked) -> None:
        listing = answer({"data": [{"id": one, **entry} for one in models]})
        hi = stream(chunk("Hi", finish="stop"), usage(7, 1), DONE)
        (listing if asked.method == "GET" else hi)(connection, asked)

    return script


def test_add_list_show_check_rm(cli: Cli, registry: Registry) -> None:
    with OpenAIServer(api("remote", owned_by="vllm", max_model_len=4096)) as server:
        added = cli("endpoint", "add", "far", "--url", server.url, "--price-in", 0.5, "--json")
        checked = cli("endpoint", "check", "far", "--json")
    assert added.exit_code == 0
    assert added.data["model"] == "remote"
    assert (added.data["kind"], added.data["n_ctx"]) == ("vllm", 4096)
    assert added.data["offered"] == ["remote"]
    assert checked.data["answered_by"] == "remote"
    assert (checked.data["offered"], checked.data["counts"]) == (True, True)
    assert checked.data["first_token_s"] > 0
    assert server.asked[-1].json["max_tokens"] == 1
    listed = cli("endpoint", "list", "--json").data
    shown = cli("endpoint", "show", "FAR", "--json").data
    assert listed == [shown]
    assert (shown["name"], shown["price_in"], shown["this_machine"]) == ("far", 0.5, True)
    assert cli("endpoint", "rm", "Far", "--json").data == {"names": ["far"]}
    assert cli("endpoint", "list", "--json").data == []
    assert cli("endpoint", "rm", "far").exit_code == 3


def test_the_model_has_to_be_chosen_and_be_there(cli: Cli) -> None:
    with OpenAIServer(api("qwen/qwen3-8b", "qwen/qwen3-4b")) as server:
        add = ("endpoint", "add", "far", "--url", server.url)
        several = cli(*add)
        unknown = cli(*add, "--model", "qwen3-8")
        assert (several.exit_code, unknown.exit_code) == (2, 3)
        assert "qwen/qwen3-8b, qwen/qwen3-4b" in several.err
        assert "near: qwen/qwen3-8b" in unknown.err
        assert "--model qwen/qwen3-8b" in unknown.err
        assert cli(*add, "--model", "qwen/qwen3-4b").exit_code == 0
        again = cli(*add, "--model", "qwen/qwen3-8b")
        assert again.exit_code == 2
        assert "--replace" in again.err
        assert cli(*add, "--model", "qwen/qwen3-8b", "--replace").exit_code == 0
    assert cli("endpoint", "show", "far", "--json").data["model"] == "qwen/qwen3-8b"


def test_a_server_without_a_list(cli: Cli) -> None:
    with OpenAIServer(answer({"error": "no"}, "404 No")) as server:
        add = ("endpoint", "add", "far", "--url", server.url)
        assert cli(*add).exit_code == 6
        named = cli(*add, "--model", "m")
    assert named.exit_code == 0
    assert "does not list its models" in named.err


def test_without_asking(cli: Cli) -> None:
    add = ("endpoint", "add", "far", "--url", "http://127.0.0.1:9", "--no-check")
    assert cli(*add).exit_code == 2
    assert cli(*add, "--model", "m", "--kind", "llama.cpp", "--ctx", 512).exit_code == 0
    shown = cli("endpoint", "show", "far", "--json").data
    assert (shown["url"], shown["kind"], shown["n_ctx"]) == (
        "http://127.0.0.1:9/v1", "llama.cpp", 512
    )  # fmt: skip
    down = cli("endpoint", "check", "far", "--json")
    assert down.exit_code == 6
    assert down.json["error"]["kind"] == "source_unreachable"


@pytest.mark.parametrize(
    "args",
    [[], ["--url", "nowhere"], ["--url", "http://u:p@h/v1"],
     ["--url", "http://h", "--kind", "odd"], ["--url", "http://h", "--key-env", "a-b"],
     ["--url", "http://h", "--key-env", "A", "--keyring"],
     ["--url", "http://h", "--price-in", "-1"]],
)  # fmt: skip
def test_what_cannot_be_added(cli: Cli, args: list[str], home: Path) -> None:
    done = cli("endpoint", "add", "far", *args, "--json")
    assert done.exit_code == 2
    assert "\n" not in done.json["error"]["message"]
    assert not (home / "registry.db").exists()


def test_a_key_is_never_written(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAR_KEY", SECRET)
    refuses = answer({"error": {"message": f"no: {SECRET}"}}, "401 No")
    outputs = []
    with OpenAIServer(refuses) as server:
        add = ("endpoint", "add", "far", "--url", server.url, "--key-env", "FAR_KEY")
        refused = cli(*add, "--json")
        assert refused.exit_code == 6
        assert "FAR_KEY" in refused.json["error"]["message"]
        outputs = [refused, cli(*add, "--no-check", "--model", "m", "--verbose")]
        outputs += [
            cli("endpoint", *words)
            for words in (("show", "far", "--json"), ("check", "far", "--verbose"), ("list",))
        ]
        outputs.append(cli("chat", "far", "hi", "--json", "--verbose"))
    assert len(server.asked) == 3
    assert all(one.headers["authorization"] == f"Bearer {SECRET}" for one in server.asked)
    assert all(SECRET not in one.out + one.err for one in outputs)
    files = [p for p in home.rglob("*") if p.is_file()]
    assert files
    assert all(SECRET.encode() not in p.read_bytes() for p in files)
    monkeypatch.delenv("FAR_KEY")
    assert cli("endpoint", "show", "far", "--json").data["key_present"] is False
    gone = cli("chat", "far", "hi")
    assert gone.exit_code == 6
    assert "environment variable FAR_KEY holds no key" in gone.err


def test_what_leaves_this_machine_is_said(cli: Cli) -> None:
    done = cli("endpoint", "add", "far", "--url", "http://far.example/v1", "--model", "m",
               "--key-env", "FAR_KEY", "--no-check", "--json")  # fmt: skip
    assert any("leaves this machine" in one for one in done.json["warnings"])
    assert any("can be read on the way" in one for one in done.json["warnings"])


def test_offline_only_this_machine_is_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    add = ("endpoint", "add", "far", "--url", "http://far.invalid/v1", "--model", "m")
    assert cli(*add, "--no-check").exit_code == 0
    monkeypatch.setenv("LOCALLLM_OFFLINE", "1")
    for args in ((*add, "--replace"), ("endpoint", "check", "far")):
        done = cli(*args, "--json")
        assert done.json["error"]["kind"] == "offline_mode", done
        assert "far is on far.invalid" in done.json["error"]["message"]
    assert cli(*add, "--replace", "--no-check").exit_code == 0
    with OpenAIServer(api("remote")) as server:
        assert cli("endpoint", "add", "near", "--url", server.url).exit_code == 0
        assert cli("endpoint", "check", "near").exit_code == 0


# --- names -------------------------------------------------------------------------------------


DATA = {"url": "http://h/v1", "model": "m"}


def test_a_name_means_one_thing(
    cli: Cli, registry: Registry, tiny_model: Model, tiny_gguf: Path, tmp_path: Path
) -> None:
    registry.set_alias("second", tiny_model)
    endpoints = Endpoints.of(registry)
    for name in ("org/tiny", "ORG/Tiny", "second", "tiny"):  # the last is its short name
        with pytest.raises(UsageProblem, match="names the model org/tiny"):
            endpoints.add(name, DATA)
    endpoints.add("far", DATA)
    with pytest.raises(UsageProblem, match="is an endpoint"):
        registry.set_alias("FAR", tiny_model)
    assert cli("cp", "tiny", "far").exit_code == 2
    # A model that comes by this name is called far-2: a download is never lost for a name
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny_gguf.read_bytes())
    from dataclasses import replace

    made = registry.add(replace(arrival("far", copy), name="far"))
    assert made.name == "far-2"


def test_an_older_index_gets_the_table(home: Path, registry: Registry, tiny_model: Model) -> None:
    with sqlite3.connect(home / "registry.db") as connection:
        for table in ("endpoint", "router", "router_version"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert Endpoints.of(Registry(home)).list() == ()
    assert [one.name for one in Registry(home).models()] == ["org/tiny"]
    Endpoints.of(registry).add("far", DATA)
    assert [one.name for one in Endpoints.of(registry).list()] == ["far"]


def test_endpoints_outlive_a_rebuild(cli: Cli, registry: Registry, tiny_model: Model) -> None:
    Endpoints.of(registry).add("far", DATA)
    assert cli("rebuild").exit_code == 0
    assert [one.name for one in Endpoints.of(registry).list()] == ["far"]


def test_endpoints_are_saved_from_a_damaged_index(
    cli: Cli, registry: Registry, home: Path, tiny_model: Model
) -> None:
    Endpoints.of(registry).add("far", DATA)
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'model'"
        ).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    with (home / "registry.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 64)
    assert cli("rebuild").exit_code == 0
    assert [one.name for one in Endpoints.of(Registry(home)).list()] == ["far"]
    assert [one.name for one in Registry(home).models()] == ["org/tiny"]


def test_a_row_that_nobody_reads_spoils_nothing(cli: Cli, registry: Registry) -> None:
    Endpoints.of(registry).add("odd", {"kind": "of a later version"})
    Endpoints.of(registry).add("far", DATA)
    assert [one["name"] for one in cli("endpoint", "list", "--json").data] == ["far"]
    assert cli("endpoint", "show", "odd").exit_code == 7
    assert cli("endpoint", "rm", "odd").exit_code == 0


# --- chat -------------------------------------------------------------------------------------


def added(registry: Registry, server: OpenAIServer, **more: Any) -> None:
    data = {"url": server.url, "model": "remote", "kind": "openai", **more}
    Endpoints.of(registry).add("far", data)


def test_chat_with_an_endpoint(cli: Cli, registry: Registry) -> None:
    with OpenAIServer(api("remote")) as server:
        added(registry, server, price_in=1.0, price_out=1.0)
        plain = cli("chat", "far", "hello", "--system", "be kind", "--temp", 0, "-n", 5)
        done = cli("chat", "far", "hello", "--json", "--top-k", 3)
    assert plain.out == "Hi\n"
    sent = server.asked[0].json
    assert sent["messages"] == [
        {"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}
    ]  # fmt: skip
    assert (sent["temperature"], sent["max_tokens"]) == (0, 5)
    data = done.data
    assert (data["text"], data["model"], data["remote_model"]) == ("Hi", "far", "remote")
    assert (data["prompt_tokens"], data["completion_tokens"]) == (7, 1)
    assert (data["seed"], data["n_ctx"], data["load_s"]) == (None, None, None)
    assert data["cost"] == pytest.approx(8e-6)
    assert "top_k" not in server.asked[1].json
    assert any("top_k" in one for one in done.json["warnings"])


def test_a_schema_goes_along_and_a_grammar_is_refused(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "integer"}}}')
    grammar = tmp_path / "g.gbnf"
    grammar.write_text('root ::= "x"')
    with OpenAIServer(api("remote")) as server:
        added(registry, server)
        assert cli("chat", "far", "hi", "--json-schema", schema).exit_code == 0
        sent = server.asked[0].json["response_format"]["json_schema"]
        assert sent["schema"]["properties"] == {"a": {"type": "integer"}}
        refused = cli("chat", "far", "hi", "--grammar", grammar)
    assert refused.exit_code == 2
    assert "GBNF" in refused.err


@pytest.mark.parametrize(
    "option",
    [["--lora", "./no.gguf"], ["--draft", "ngram"], ["--raw"], ["--overflow", "shift"],
     ["--kv", "q8_0"], ["--require-gpu"]],
)  # fmt: skip
def test_what_needs_a_model_here(cli: Cli, registry: Registry, option: list[str]) -> None:
    with OpenAIServer(api("remote")) as server:
        added(registry, server)
        done = cli("chat", "far", "hi", *option)
    assert done.exit_code in (2, 3)
    assert not server.asked


def test_tools_are_called_and_answered(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    tools = tmp_path / "tools.py"
    tools.write_text('def add(a: int, b: int) -> int:\n    "Adds."\n    return a + b\n')
    call = {"index": 0, "id": "c9", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    calls = stream(chunk(delta={"tool_calls": [call]}), chunk(finish="tool_calls"), DONE)
    with OpenAIServer([calls, stream(chunk("It is 5", finish="stop"), DONE)]) as server:
        added(registry, server)
        done = cli("chat", "far", "2+3?", "--tool", tools, "--yes-tools", "--json")
    assert done.exit_code == 0, done.err + done.out
    assert done.data["text"] == "It is 5"
    assert done.data["tool_calls"][0]["result"] == "5"
    first, second = (one.json for one in server.asked)
    assert first["tools"][0]["function"]["name"] == "add"
    assert second["messages"][1]["tool_calls"][0]["id"] == "c9"
    assert second["messages"][2] == {"role": "tool", "content": "5", "tool_call_id": "c9"}


def test_unknown_names_come_near_endpoints_too(cli: Cli, registry: Registry) -> None:
    Endpoints.of(registry).add("faraway", DATA)
    done = cli("chat", "farawy", "hi")
    assert done.exit_code == 3
    assert "near: faraway" in done.err


def test_a_conversation_goes_on_with_another(
    cli: Cli, registry: Registry, tiny_model: Model
) -> None:
    """Piped lines into the REPL's commands need a terminal; --continue shows the same."""
    with OpenAIServer(api("remote")) as server:
        added(registry, server)
        assert cli("chat", "tiny", "one", "-n", 3, "--save").exit_code == 0
        done = cli("chat", "far", "two", "--continue", "--json")
    assert done.data["text"] == "Hi"
    roles = [one["role"] for one in server.asked[0].json["messages"]]
    assert roles == ["user", "assistant", "user"]
