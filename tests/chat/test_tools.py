"""Functions that a model calls: described, confirmed, run apart, told back."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest

from localllm.chat.tools import Decision, open_tools
from localllm.chat.tools.describing import describe
from localllm.errors import FileGone, UsageProblem
from localllm.registry import Model, Registry
from localllm.registry.chats import Chats
from localllm.toolcalls import ToolCall
from tests.conftest import Done, arrival
from tests.support.scripted import scripted

Cli = Callable[..., Done]

TOOLS = '''
"""Weather."""
import os, sys, time

def weather(city: str, days: int = 1) -> dict:
    """Look up the weather.

    Args:
        city: Where.
        days: How many days
            ahead.
    """
    print("this is printed")
    return {"city": city, "days": days, "pid": os.getpid()}

def broken() -> str:
    raise ValueError("no luck")

def slow() -> str:
    time.sleep(60)

def ends() -> str:
    os._exit(3)

async def later(x: float) -> str:
    return f"{x:.1f}"

def _private(): ...
'''
# Hermes' way, as its template writes it
HERMES = (
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools><tool_call>"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}<tool_call>{{ m.tool_calls[0].function.arguments | tojson }}"
    "</tool_call>{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant"
    "{{ '#' if messages[-1].role == 'tool' else '\n' }}"
)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    path = tmp_path / "tools.py"
    path.write_text(TOOLS)
    return path


@pytest.fixture
def caller(registry: Registry, tmp_path: Path) -> Model:
    """Calls weather once, then says what it would say after a result."""
    call = '\n{"name": "weather", "arguments": {"city": "Paris"}}\n'  # as Hermes' grammar has it
    path = scripted(
        tmp_path / "c.gguf",
        {"\n": ["I look. ", "<tool_call>", call, "</tool_call>"], "#": ["It is", " sunny."]},
        chat_template=HERMES,
    )
    return registry.add(arrival("caller", path))


class Colour(enum.Enum):
    RED = "red"


def yes(call: str) -> Decision:
    return "yes"


def test_functions_become_schemas() -> None:
    def paint(
        what: Annotated[str, "The thing"], colour: Colour, coats: int | None = None,
        tags: list[str] = [], kind: Literal["matt", "gloss"] = "matt", **rest: int,  # noqa: B006
    ) -> None:  # fmt: skip
        """Paint a thing.

        :param colour: Which one.
        """

    described = describe(paint)
    assert described["description"] == "Paint a thing."
    properties = described["parameters"]["properties"]
    assert properties == {
        "what": {"type": "string", "description": "The thing"},
        "colour": {"enum": ["red"], "description": "Which one."},
        "coats": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        "kind": {"enum": ["matt", "gloss"], "default": "matt"},
    }
    assert described["parameters"]["required"] == ["what", "colour"]


def test_a_file_runs_in_a_process_of_its_own(tools: Path) -> None:
    import json
    import os

    box = open_tools([str(tools)], yes, 5)
    assert box is not None
    with box:
        names = [tool.name for tool in box.tools]
        assert names == ["weather", "broken", "slow", "ends", "later"]
        city = box.tools[0].parameters["properties"]["city"]
        assert city == {"type": "string", "description": "Where."}
        done = box.run(ToolCall("1", "weather", '{"city": "Oslo"}'))
        assert done.status == "done"
        assert json.loads(done.result)["city"] == "Oslo"
        assert json.loads(done.result)["pid"] != os.getpid()
        assert box.run(ToolCall("2", "later", '{"x": 2}')).result == "2.0"


def test_what_goes_wrong_is_told_to_the_model(tools: Path) -> None:
    box = open_tools([str(tools)], yes, 1)
    assert box is not None
    with box:
        for name, arguments, why in (
            ("broken", "{}", "ValueError: no luck"),
            ("slow", "{}", "longer than 1 s"),
            ("ends", "{}", "process of the tools ended"),
            ("weather", "{}", "TypeError"),
            ("weather", "[1]", "no object"),
            ("weather", "{", "no JSON"),
            ("sunrise", "{}", "no such tool; there are weather, broken"),
        ):
            done = box.run(ToolCall("1", name, arguments))
            assert done.status == "failed"
            assert why in done.result
        assert box.run(ToolCall("1", "later", '{"x": 1}')).status == "done"  # a new child


def test_nothing_runs_unless_allowed(tools: Path) -> None:
    asked: list[str] = []

    def decide(call: str) -> Decision:
        asked.append(call)
        return "always" if "Oslo" in call else "no"

    box = open_tools([str(tools)], decide, 5)
    assert box is not None
    with box:
        assert box.run(ToolCall("1", "weather", '{"city": "\\u202eX"}')).status == "refused"
        assert box.run(ToolCall("1", "weather", '{"city": "Oslo"}')).status == "done"
        assert box.run(ToolCall("1", "weather", '{"city": "Rome"}')).status == "done"
    assert asked == ['weather(city="\\u202eX")', 'weather(city="Oslo")']


def test_a_call_cannot_look_like_another_one(tools: Path) -> None:
    asked: list[str] = []
    box = open_tools([str(tools)], lambda call: (asked.append(call), "yes")[1], 5)
    assert box is not None
    with box:
        hidden = '{"\\u001b[2K\\rrun weather(city": "Oslo", "a b": 1}'
        done = box.run(ToolCall("1", "weather", hidden))
        unknown = box.run(ToolCall("1", "\x1b[2Jx", "{}"))
    assert asked == ['weather("\\u001b[2K\\rrun weather(city"="Oslo", "a b"=1)']
    assert "\x1b" in done.result  # the model is told as it was
    assert str(done).isprintable() and str(unknown).isprintable()


@pytest.mark.parametrize(
    ("content", "why"),
    [("def f(:", "SyntaxError"), ("x = 1", "no public functions"),
     ("import sys; sys.exit(1)", "SystemExit"), ("raise RuntimeError('no')", "RuntimeError: no"),
     ("import os; os._exit(3)", "t.py cannot be used: the process of the tools ended")],
)  # fmt: skip
def test_files_that_offer_nothing(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "t.py").write_text(content)
    with pytest.raises(UsageProblem, match=why):
        open_tools([str(tmp_path / "t.py")], yes, 5)


def test_what_is_no_tool(tmp_path: Path, tools: Path) -> None:
    with pytest.raises(FileGone):
        open_tools([str(tmp_path / "none.py")], yes, 5)
    for text in ("notes.txt", "mcp:", "mcp:localllm-no-such-program", "mcp:run 'it"):
        with pytest.raises(UsageProblem):
            open_tools([text], yes, 5)
    with pytest.raises(UsageProblem, match="two tools"):
        open_tools([str(tools), str(tools)], yes, 5)
    for servers, why in (
        ('{"servers": {}}', "mcpServers"), ('{"mcpServers": ' + "[" * 100_000, "mcpServers"),
        ('{"mcpServers": {"a": {"command": "cat", "args": "x"}}}', "no list"),
        ('{"mcpServers": {"a": {"command": "localllm-none", "args": null}}}', "not start"),
    ):  # fmt: skip
        (tmp_path / "s.json").write_text(servers)
        with pytest.raises(UsageProblem, match=why):
            open_tools([str(tmp_path / "s.json")], yes, 5)


SERVER = """
try:
    from mcp.server import MCPServer as Server
except ImportError:
    from mcp.server.fastmcp import FastMCP as Server
server = Server("test")

@server.tool()
def add(a: int, b: int) -> str:
    "Add two numbers."
    return str(a + b)

@server.tool()
def fails() -> str:
    raise ValueError("no luck")

server.run()
"""


def test_an_mcp_server(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    (tmp_path / "server.py").write_text(SERVER)
    config = tmp_path / "servers.json"
    import json

    server = {"command": sys.executable, "args": [str(tmp_path / "server.py")]}
    config.write_text(json.dumps({"mcpServers": {"test": server}}))
    box = open_tools([str(config)], yes, 20)
    assert box is not None
    with box:
        add = next(tool for tool in box.tools if tool.name == "add")
        assert add.description == "Add two numbers."
        assert set(add.parameters["properties"]) == {"a", "b"}
        assert box.run(ToolCall("1", "add", '{"a": 2, "b": 40}')).result == "42"
        failed = box.run(ToolCall("1", "fails", "{}"))
        assert failed.status == "failed"


def test_a_model_calls_and_answers(
    cli: Cli, caller: Model, tools: Path, registry: Registry
) -> None:
    done = cli("chat", "caller", "Paris?", "--tool", tools, "--yes-tools", "--temperature", 0,
               "--save", "--json")  # fmt: skip
    assert done.exit_code == 0, done
    assert done.data["text"] == "I look.\n\nIt is sunny."
    (call,) = done.data["tool_calls"]
    assert (call["name"], call["status"]) == ("weather", "done")
    assert '"city": "Paris"' in call["result"]
    kept = Chats.of(registry).messages(done.data["chat_id"])
    assert [m.role for m in kept] == ["user", "assistant", "tool", "assistant"]
    assert kept[2].data["extra"]["name"] == "weather"


def test_a_call_that_nobody_allows(cli: Cli, caller: Model, tools: Path) -> None:
    done = cli("chat", "caller", "Paris?", "--tool", tools, "--temperature", 0, "--json")
    assert done.data["tool_calls"][0]["status"] == "refused"
    assert "nobody can be asked" in done.json["warnings"][0]
    assert done.data["text"].endswith("sunny.")


def test_a_model_without_a_place_for_tools(cli: Cli, tiny_model: Model, tools: Path) -> None:
    done = cli("chat", "tiny", "x", "--tool", tools)
    assert done.exit_code == 2
    assert "calls no tools" in done.err


def test_calls_without_end_are_ended(
    cli: Cli, registry: Registry, tmp_path: Path, tools: Path
) -> None:
    call = '\n{"name": "later", "arguments": {"x": 1}}\n'
    path = scripted(
        tmp_path / "l.gguf", {"\n": ["<tool_call>", call, "</tool_call>"]},
        chat_template=HERMES.replace("'#'", "'\n'"),
    )  # fmt: skip
    registry.add(arrival("looper", path))
    done = cli("chat", "looper", "x", "--tool", tools, "--yes-tools", "--temperature", 0, "--json")
    statuses = [call["status"] for call in done.data["tool_calls"]]
    assert statuses == ["done"] * 10 + ["refused"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_a_call_is_confirmed_at_the_terminal(caller: Model, tools: Path) -> None:
    pytest.importorskip("pyte")
    from tests.support.terminal import Terminal

    command = [sys.executable, "-m", "localllm", "chat", "caller", "--tool", str(tools),
               "--temperature", "0"]  # fmt: skip
    with Terminal(command) as terminal:
        terminal.until("the model may call: weather")
        terminal.until_ready()
        terminal.send("Paris?\r")
        terminal.until('run weather(city="Paris") ?')
        terminal.pump(0.2)
        terminal.send("a\r")
        terminal.until("It is sunny.")
        terminal.until_ready(after=1)
        terminal.send("again\r")
        terminal.until("It is sunny.", count=2)
        assert terminal.text().count("run weather") == 1
        terminal.until_ready(after=2)
        terminal.send("\x04")
        assert terminal.finish() == 0
        assert "Traceback" not in terminal.text()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_ctrl_c_ends_a_call_and_takes_the_turn_back(
    registry: Registry, tmp_path: Path, tools: Path
) -> None:
    pytest.importorskip("pyte")
    from tests.support.terminal import Terminal

    call = '\n{"name": "slow", "arguments": {}}\n'
    path = scripted(
        tmp_path / "s.gguf", {"\n": ["<tool_call>", call, "</tool_call>"], "#": ["Done."]},
        chat_template=HERMES,
    )  # fmt: skip
    registry.add(arrival("slowly", path))
    command = [sys.executable, "-m", "localllm", "chat", "slowly", "--tool", str(tools),
               "--temperature", "0", "--yes-tools"]  # fmt: skip
    with Terminal(command) as terminal:
        terminal.until_ready()
        terminal.send("wait\r")
        terminal.until("calls slow()")
        terminal.pump(0.3)
        terminal.interrupt()
        terminal.until("the question is taken back")
        terminal.until_ready(after=1)
        terminal.send("/tokens\r")
        terminal.until("0 of 4,096 tokens")
        terminal.until_ready(after=2)
        terminal.send("\x04")
        assert terminal.finish() == 0
    assert Chats.of(registry).list() == ()
