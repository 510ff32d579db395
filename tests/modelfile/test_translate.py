"""Go templates of the kinds that Ollama models come with, as Jinja: expected texts are what Go's
text/template and Ollama's way of running it give, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.engine.template import ChatTemplate
from localllm.errors import UsageProblem
from localllm.generation import Message
from localllm.modelfile import chat_template
from localllm.toolcalls import ToolFormat

SYSTEM, USER = Message("system", "Be {{ brief }} %}"), Message("user", "Hi")
ANSWER, AGAIN = Message("assistant", 'Hello "you"'), Message("user", "Bye")
TALK = [SYSTEM, USER, ANSWER, AGAIN]
CALL = Message(
    "assistant",
    "",
    {
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "x<y"}'}}
        ]
    },
)
RESULT = Message("tool", "22 C", {"tool_call_id": "1"})
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {
    "type": "object", "properties": {"a": {"type": "string"}}}}}  # fmt: skip


def render(go: str, messages: list[Message], **more: Any) -> str:
    return ChatTemplate(chat_template(go)).render(messages, **more).text


CHATML_TURNS = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
CHATML_TEXT = (
    "<|im_start|>system\nBe {{ brief }} %}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    '<|im_start|>assistant\nHello "you"<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n'
    "<|im_start|>assistant\n"
)
LLAMA2 = """[INST] <<SYS>>
{{- if .System }}
{{ .System }}
{{ end }}<</SYS>>

{{ .Prompt }} [/INST] {{ .Response }}</s>"""
NO_RESPONSE = "### User:\n{{ .Prompt }}\n\n### Response:\n"
GEMMA = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if or (eq .Role "user") (eq .Role "system") }}<start_of_turn>user
{{ .Content }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}
{{- end }}
{{- end }}"""
TOOLS = """{{- $system := .System -}}
{{- if and $.Tools (ne $system "") }}{{ $system }}
{{- range $index, $tool := .Tools }}
{{ json $tool }}{{ if lt $index 9 }};{{ end }}
{{- end }}
{{ end -}}
{{ range .Messages -}}
{{ with .ToolCalls }}{{ range . }}<call>{"name": "{{ .Function.Name }}", "arguments": \
{{ .Function.Arguments }}}</call>{{ range $k, $v := .Function.Arguments }}[{{ $k }}={{ $v }}]\
{{ end }}{{ end }}
{{ else }}{{ .Role | printf "%s" }}> {{ .Content }}
{{ end }}
{{- end }}"""

RENDERED = [
    (CHATML, TALK, {}, CHATML_TEXT),
    (CHATML_TURNS, TALK, {}, CHATML_TEXT),
    (LLAMA2, TALK, {}, "[INST] <<SYS>>\nBe {{ brief }} %}\n<</SYS>>\n\nHi [/INST] Hello \"you\""
     "</s>[INST] <<SYS>><</SYS>>\n\nBye [/INST] "),
    (NO_RESPONSE, [USER, ANSWER, AGAIN], {}, '### User:\nHi\n\n### Response:\nHello "you"### User:'
     "\nBye\n\n### Response:\n"),
    (GEMMA, [USER, ANSWER, AGAIN], {}, "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model"
     '\nHello "you"<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n'),
    (GEMMA, [USER, Message("user", "there")], {}, "<start_of_turn>user\nHi\n\nthere<end_of_turn>\n"
     "<start_of_turn>model\n"),
    (TOOLS, [SYSTEM, USER, CALL, RESULT], {"tools": [TOOL]}, "Be {{ brief }} %}\n"
     + json.dumps(TOOL, separators=(",", ":")) + ";\nsystem> Be {{ brief }} %}\nuser> Hi\n"
     '<call>{"name": "f", "arguments": {"a":"x\\u003cy"}}</call>[a=x<y]\ntool> 22 C\n'),
    ("{{ range .Messages }}{{ if eq .Role \"user\" \"tool\" }}U{{ continue }}{{ end }}"
     "{{ break }}{{ end }}", [USER, ANSWER, AGAIN], {}, "U"),
    ("{{/* a comment */ -}}  \n{{ $n := 0 }}{{ range .Messages }}{{ $n = len .Content }}{{ end }}"
     "{{ $n }}", [USER, ANSWER, AGAIN], {}, "3"),
    ("{{ (index .Messages 0).Content }}|{{ (slice .Messages 1 2) | len }}|{{ `raw {{` }}", TALK, {},
     "Be {{ brief }} %}|1|raw {{"),
    ("{{ range .Messages }}{{ else }}none{{ end }}{{ if and .Tools true }}t{{ else if .System }}s"
     "{{ else }}n{{ end }}", [USER], {}, "n"),
    ("{{ if .Think }}/think{{ end }}{{ if .IsThinkSet }}!{{ end }}{{ range .Messages }}"
     "{{ .Content }}{{ end }}", [USER], {"variables": {"enable_thinking": True}}, "/think!Hi"),
]  # fmt: skip


@pytest.mark.parametrize(("go", "messages", "more", "text"), RENDERED)
def test_what_go_would_write(
    go: str, messages: list[Message], more: dict[str, Any], text: str
) -> None:
    assert render(go, messages, **more) == text


REFUSED = [
    ('{{ define "x" }}{{ end }}', "line 1 of the template: {{ define }} is not supported"),
    ('a\n{{ template "x" }}', "line 2 of the template: {{ template }} is not supported"),
    (
        "{{ range .Messages }}{{ toTypeScriptType .Content }}{{ end }}",
        "the function 'toTypeScriptType'",
    ),
    ("{{ if .System }}x", "{{ if }} without its {{ end }}"),
    ("x{{ end }}", "'end' without its beginning"),
    ("{{ .Prompt", "a {{ without its }}"),
    ("{{ .Nonsense }}", ".Nonsense is nothing that a template is given"),
    ("{{ $x }}", "$x is used before it is set"),
    ("{{ 'c' }}", "is not supported"),
    ("{{ (.System }}", "a ( without its )"),
    ("{{ .System | .Prompt }}", "a pipe into what is no function"),
    ("{{ if .A }}" * 100, "blocks deeper than 60"),
    ("{{ " + "(" * 5000 + " }}", "brackets deeper than 60"),
    ("x" * 200_000, "at most 131072"),
]


@pytest.mark.parametrize(("go", "why"), REFUSED)
def test_what_is_not_supported_is_named(go: str, why: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        chat_template(go)
    assert why in caught.value.message
    assert "\n" not in caught.value.message


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="{}-% \n\"'\\#ab<é", max_size=30).filter(lambda s: "{{" not in s))
def test_text_stands_as_it_is(text: str) -> None:
    go = "{{ range .Messages }}[{{ .Content }}]{{ end }}" + text
    assert render(go, [USER]) == "[Hi]" + text.replace("\r\n", "\n")


def test_the_word_tools_stands_only_where_they_are_used() -> None:
    assert "tools" in chat_template(TOOLS)
    assert "tools" not in chat_template(CHATML)
    assert "tools" not in chat_template(CHATML_TURNS)


LLAMA3_CALLS = """{{ range .Messages }}{{ if .ToolCalls }}{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{- else if eq .Role "tool" }}<|start_header_id|>ipython<|end_header_id|>{{ end }}{{ end }}"""


def test_its_tool_calls_are_known_by_their_marks() -> None:
    assert ToolFormat.of(chat_template(LLAMA3_CALLS)).name == "llama3"
    assert (
        ToolFormat.of(chat_template("{{ range .Messages }}<tool_call>{{ end }}")).name == "hermes"
    )
