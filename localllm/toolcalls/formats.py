"""How each family of models writes its tool calls.

Verified against the templates that llama.cpp carries in models/templates, and its common/chat.cpp.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from localllm.errors import UsageProblem
from localllm.generation import Sampling
from localllm.grammars.nodes import Node
from localllm.toolcalls.calls import Found, Tool
from localllm.toolcalls.detection import format_name
from localllm.toolcalls.forcing import Forcing
from localllm.toolcalls.parser import ToolParser
from localllm.toolcalls.reading import Attempt, Reading
from localllm.toolcalls.syntax_gemma import GemmaCalls
from localllm.toolcalls.syntax_harmony import Harmony
from localllm.toolcalls.syntax_json import JsonCalls, NamedJson
from localllm.toolcalls.syntax_marked import MarkedCalls
from localllm.toolcalls.syntax_python import PythonCalls

_LETTERS = string.ascii_letters + string.digits


class Syntax(Protocol):
    """How calls are written: read after one of the openers, and written as a grammar."""

    @property
    def openers(self) -> tuple[str, ...]: ...

    @property
    def bare(self) -> bool: ...

    def read(
        self, attempt: Attempt, opener: str, tools: Mapping[str, Tool]
    ) -> Reading[list[Found]]: ...

    def node(self, forcing: Forcing, begun: bool) -> Node: ...


@dataclass(frozen=True)
class ToolFormat:
    """One model family's tool calls. `name` is "none" where the template knows no tools.

    The first syntax is the one that a grammar writes; all are read. `special`: its marks are
    control tokens in the vocabularies that use it, which come out only with `Sampling.special`.
    `prefix`: what the prompt has written of the answer already. After one of `triggers` nothing
    but a call may follow.
    """

    name: str
    syntaxes: tuple[Syntax, ...] = ()
    special: bool = False
    prefix: str = ""
    triggers: tuple[str, ...] = ()
    id_length: int = 0  # an id of so many alphanumerics, which is written in the call
    keeps_ids: bool = False  # the format's own ids are the calls'

    @classmethod
    def of(cls, template: str, arch: str | None = None) -> ToolFormat:
        """By what the chat template contains; `arch` decides where it says nothing of calls."""
        return FORMATS[format_name(template, arch)]

    @property
    def known(self) -> bool:
        return bool(self.syntaxes)

    def grammar(
        self, tools: Sequence[Tool], choice: str = "auto", parallel: bool = True
    ) -> str | None:
        """GBNF that forces calls where `choice` is "required" or a tool's name, else None.

        Raises UsageProblem for a name that is no tool's, a tool whose schema cannot be enforced,
        and a template that knows no tools.
        """
        if choice in ("auto", "none"):
            return None
        wanted = [tool for tool in tools if choice in ("required", tool.name)]
        if not wanted:
            raise UsageProblem(f"tool_choice names {choice!r}, which is none of the tools")
        if not self.known:
            raise UsageProblem("calls cannot be forced: this model's chat template knows no tools")
        return self._written(wanted, parallel and choice == "required", begun=False)

    def lazy_grammar(self, tools: Sequence[Tool], parallel: bool = True) -> str | None:
        """GBNF of what may follow one of `triggers`; None where no mark begins a call, or it
        would be too large. Arguments whose schema cannot be enforced are any object."""
        if not self.triggers or not tools:
            return None
        try:
            return self._written(tools, parallel, begun=True)
        except UsageProblem:
            return None

    def sampling(
        self,
        sampling: Sampling,
        tools: Sequence[Tool],
        choice: str = "auto",
        parallel: bool = True,
    ) -> Sampling:
        """`sampling` with what this format needs: its control tokens shown, calls forced, or
        held to their schemas once the model begins one. A grammar of the caller's own stays,
        unless calls are forced."""
        if not tools or choice == "none":
            return sampling
        shown = replace(sampling, special=sampling.special or self.special)
        forced = self.grammar(tools, choice, parallel)
        if forced is not None:
            return replace(shown, grammar=forced, grammar_triggers=())
        lazy = None if sampling.grammar else self.lazy_grammar(tools, parallel)
        if lazy is None:
            return shown
        return replace(shown, grammar=lazy, grammar_triggers=self.triggers)

    def parser(self, tools: Sequence[Tool], new_id: Callable[[], str] | None = None) -> ToolParser:
        """A parser for one answer. `new_id` makes ids where the format gives none."""
        make = new_id or self._new_id

        def id_of(found: Found) -> str:
            return found.id if self._keeps(found.id) and found.id else make()

        return ToolParser(self, tools, id_of)

    def _keeps(self, given: str | None) -> bool:
        if not self.keeps_ids or given is None:
            return False
        return (
            self.id_length == 0
            or re.fullmatch(f"[A-Za-z0-9]{{{self.id_length}}}", given) is not None
        )

    def _new_id(self) -> str:
        if self.id_length:
            return "".join(secrets.choice(_LETTERS) for _ in range(self.id_length))
        return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(24))

    def _written(self, tools: Sequence[Tool], parallel: bool, *, begun: bool) -> str:
        forcing = Forcing(tools, parallel=parallel, strict=not begun, id_length=self.id_length)
        return forcing.grammar.text(self.syntaxes[0].node(forcing, begun))


_HERMES = JsonCalls(("<tool_call>",), "</tool_call>", gap="\n")
_QWEN = MarkedCalls(
    ("<tool_call>", "<function="), "</tool_call>", "<function=", ">", "<parameter=", ">",
    "</parameter>", "</function>",
)  # fmt: skip
_LISTED = JsonCalls(("[TOOL_CALLS]",), listed=True)
_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_DEEPSEEK_CALL = ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
_KIMI = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")

_ALL = (
    ToolFormat("none"),
    ToolFormat("hermes", (_HERMES,), triggers=("<tool_call>",)),
    ToolFormat("qwen3-coder", (_QWEN, ), triggers=("<tool_call>",)),
    ToolFormat(
        "seed",
        (MarkedCalls(("<seed:tool_call>", "<function="), "</seed:tool_call>", "<function=", ">",
                     "<parameter=", ">", "</parameter>", "</function>", value_line=""),),
        special=True, triggers=("<seed:tool_call>",),
    ),
    ToolFormat(
        "glm",
        (MarkedCalls(("<tool_call>",), "</tool_call>", "", "", "<arg_key>",
                     "</arg_key>\n<arg_value>", "</arg_value>", value_line=""),),
        triggers=("<tool_call>",),
    ),
    ToolFormat(
        "minimax",
        (MarkedCalls(("<minimax:tool_call>",), "</minimax:tool_call>", '<invoke name="', '">',
                     '<parameter name="', '">', "</parameter>", "</invoke>", value_line="",
                     several_inside=True),),
        special=True, triggers=("<minimax:tool_call>",),
    ),
    ToolFormat(
        "llama3",
        (JsonCalls(("{",), argument_keys=("parameters", "arguments"), bare=True, several=False),
         JsonCalls(("<|python_tag|>",), argument_keys=("parameters", "arguments"))),
        special=True,
    ),
    ToolFormat("llama4", (PythonCalls(("[",), bare=True),
                          PythonCalls(("<|python_start|>",), "<|python_end|>")), special=True),
    ToolFormat(
        "lfm2", (PythonCalls(("<|tool_call_start|>",), "<|tool_call_end|>"),), special=True,
        triggers=("<|tool_call_start|>",),
    ),
    ToolFormat(
        "mistral", (_LISTED,), special=True, triggers=("[TOOL_CALLS]",), id_length=9,
        keeps_ids=True,
    ),
    ToolFormat(
        "mistral-args",
        (NamedJson(("[TOOL_CALLS]",), "[ARGS]"),), special=True, triggers=("[TOOL_CALLS]",),
        id_length=9, keeps_ids=True,
    ),
    ToolFormat(
        "mistral-call-id",
        (NamedJson(("[TOOL_CALLS]",), "[ARGS]", call_id="[CALL_ID]"),), special=True,
        triggers=("[TOOL_CALLS]",), id_length=9, keeps_ids=True,
    ),
    ToolFormat(
        "functionary-v3.1", (NamedJson(("<function=",), ">", "</function>"),),
        triggers=("<function=",),
    ),
    ToolFormat(
        "functionary-v3.2", (NamedJson((">>>",), "\n", ignored=("all",)),), prefix=">>>",
    ),
    ToolFormat("harmony", (Harmony(),), special=True, prefix="<|start|>assistant",
               triggers=(" to=functions.",)),
    ToolFormat(
        "deepseek-r1",
        (NamedJson((_DEEPSEEK_CALL[0], _DEEPSEEK[0]), "\n", _DEEPSEEK_CALL[2],
                   before_name=f"function{_DEEPSEEK_CALL[1]}", fence=("```json\n", "\n```"),
                   section=_DEEPSEEK),),
        special=True, triggers=(_DEEPSEEK_CALL[0],),
    ),
    ToolFormat(
        "deepseek-v3.1",
        (NamedJson((_DEEPSEEK_CALL[0], _DEEPSEEK[0]), _DEEPSEEK_CALL[1], _DEEPSEEK_CALL[2],
                   section=_DEEPSEEK),),
        special=True, triggers=(_DEEPSEEK_CALL[0],),
    ),
    ToolFormat(
        "kimi-k2",
        (NamedJson(("<|tool_call_begin|>", _KIMI[0]), "<|tool_call_argument_begin|>",
                   "<|tool_call_end|>", before_name="functions.", index=":", section=_KIMI),),
        special=True, triggers=("<|tool_call_begin|>",), keeps_ids=True,
    ),
    ToolFormat("gemma4", (GemmaCalls(),), special=True, triggers=("<|tool_call>call:",)),
    ToolFormat(
        "command-r7b",
        (JsonCalls(("<|START_ACTION|>",), "<|END_ACTION|>", listed=True,
                   name_keys=("tool_name", "name"), argument_keys=("parameters", "arguments"),
                   id_keys=("tool_call_id", "id"), close_optional=True),),
        special=True, triggers=("<|START_ACTION|>",),
    ),
    ToolFormat(
        "command-r",
        (JsonCalls(("Action:\n```json\n", "Action: ```json\n"), "```", listed=True,
                   name_keys=("tool_name", "name"), argument_keys=("parameters", "arguments"),
                   close_optional=True),),
        triggers=("Action:\n```json\n", "Action: ```json\n"),
    ),
    ToolFormat("granite", (JsonCalls(("<|tool_call|>", "<tool_call>"), listed=True),),
               special=True, triggers=("<|tool_call|>",)),
    ToolFormat(
        "phi4", (JsonCalls(("<|tool_call|>",), "<|/tool_call|>", listed=True,
                           close_optional=True),),
        special=True, triggers=("<|tool_call|>",),
    ),
    ToolFormat("nemotron", (JsonCalls(("<TOOLCALL>",), "</TOOLCALL>", listed=True),),
               triggers=("<TOOLCALL>",)),
    ToolFormat("tool-calls", (JsonCalls(("<tool_calls>",), "</tool_calls>", listed=True),),
               triggers=("<tool_calls>",)),
    ToolFormat("minimax-m1", (JsonCalls(("<tool_calls>",), "</tool_calls>", gap="\n",
                                        several=False),), triggers=("<tool_calls>",)),
    ToolFormat("firefunction", (JsonCalls(("functools",), listed=True),), triggers=("functools",)),
    ToolFormat(
        "apertus", (JsonCalls(("<|tools_prefix|>",), "<|tools_suffix|>", listed=True, keyed=True,
                              close_optional=True),),
        special=True, triggers=("<|tools_prefix|>",),
    ),
)  # fmt: skip
FORMATS: Mapping[str, ToolFormat] = {one.name: one for one in _ALL}
