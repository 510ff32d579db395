"""A Go template of an Ollama model as a Jinja chat template.

What Ollama does around a template is done here too: system messages are gathered, neighbouring
messages of one role become one, and a template that knows no .Messages is written once for each
turn, cut off after .Response for the answer to come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from localllm.modelfile.gojinja import Translation
from localllm.modelfile.gonodes import Action, Branch, Call, Expression, Node, Path, Pipeline
from localllm.modelfile.gotemplate import parse_template

# Go's json.Marshal writes no spaces and escapes HTML; a value on its own is written as Go does.
_PRELUDE = (
    "{%- macro go_json(x) -%}{{ x | tojson(separators=(',', ':')) | replace('&', '\\\\u0026') "
    "| replace('<', '\\\\u003c') | replace('>', '\\\\u003e') }}{%- endmacro -%}"
    "{%- macro go_text(x) -%}{%- if x is string -%}{{ x }}{%- elif x is boolean -%}"
    "{{ 'true' if x else 'false' }}{%- elif x is number -%}{{ x }}{%- elif x is mapping or "
    "x is iterable -%}{{ go_json(x) }}{%- endif -%}{%- endmacro -%}"
    "{%- set c = namespace(messages=[], system=none) -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}{%- set c.system = m.content if c.system is none "
    "else c.system ~ '\\n\\n' ~ m.content -%}{%- endif -%}"
    "{%- if c.messages and c.messages[-1].role == m.role and m.role != 'tool' -%}"
    "{%- set c.messages = c.messages[:-1] + [dict(c.messages[-1], "
    "content=c.messages[-1].content ~ '\\n\\n' ~ m.content)] -%}"
    "{%- else -%}{%- set c.messages = c.messages + [m] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set think = enable_thinking | default(false) -%}"
    "{%- set is_think_set = enable_thinking is defined -%}"
)
_WHOLE = (
    "{%- set root = {'system': c.system or '', 'messages': c.messages, %TOOLS%"
    "'prompt': '', 'response': '', 'think': think, 'is_think_set': is_think_set} -%}"
)
_TURNS = (
    "{%- set t = namespace(system='', prompt='', response='') -%}"
    "{%- for m in c.messages -%}"
    "{%- if m.role == 'system' and (t.prompt or t.response) or m.role == 'user' and t.response -%}"
    "{{ go_turn({'system': t.system, 'prompt': t.prompt, 'response': t.response, 'think': think, "
    "'is_think_set': is_think_set}) }}"
    "{%- set t.system = '' -%}{%- set t.prompt = '' -%}{%- set t.response = '' -%}{%- endif -%}"
    "{%- if m.role == 'system' -%}{%- set t.system = m.content -%}"
    "{%- elif m.role == 'user' -%}{%- set t.prompt = m.content -%}"
    "{%- elif m.role == 'assistant' -%}{%- set t.response = m.content -%}{%- endif -%}"
    "{%- endfor -%}"
    "{{ go_last({'system': t.system, 'prompt': t.prompt, 'response': t.response, 'think': think, "
    "'is_think_set': is_think_set}) }}"
)


def chat_template(source: str) -> str:
    """The Jinja chat template that does what the Go template `source` does in Ollama.

    Raises UsageProblem, naming the line and the construct, for what is not supported.
    """
    nodes = parse_template(source)
    names = set(_identifiers(nodes))
    if "Messages" in names or "Document" in names:
        # who asks whether a template knows tools looks for the word
        whole = _WHOLE.replace("%TOOLS%", "'tools': tools or [], " if "Tools" in names else "")
        return _PRELUDE + whole + Translation().body(nodes)
    if "Response" not in names:
        nodes = (*nodes, Action(Pipeline((Path(".", ("Response",)),))))
    turn = Translation().body(nodes)
    last = Translation().body(_cut(nodes)[0])
    return (
        f"{_PRELUDE}{{%- macro go_turn(root) -%}}{turn}{{%- endmacro -%}}"
        f"{{%- macro go_last(root) -%}}{last}{{%- endmacro -%}}{_TURNS}"
    )


def _identifiers(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Action | Branch):
            yield from _named(node.pipeline)
        if isinstance(node, Branch):
            yield from _identifiers(node.body)
            yield from _identifiers(node.other)


def _named(pipeline: Pipeline) -> Iterator[str]:
    waiting: list[Expression] = list(pipeline.stages)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Path):
            yield from node.fields
            if isinstance(node.root, Pipeline):
                waiting += node.root.stages
        elif isinstance(node, Call):
            waiting += node.arguments


def _cut(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """`nodes` up to the first .Response, which stays; what follows it is the next turn's."""
    kept: list[Node] = []
    for n, node in enumerate(nodes):
        if isinstance(node, Action) and "Response" in set(_named(node.pipeline)):
            return (*kept, node), True
        if isinstance(node, Branch):
            in_condition = "Response" in set(_named(node.pipeline))
            body, cut = ((), True) if in_condition else _cut(node.body)
            other, cut_other = ((), True) if in_condition or cut else _cut(node.other)
            if in_condition and node.kind == "if":
                body, _ = _cut(node.body)
            node = Branch(node.kind, node.pipeline, body, other, node.line)
            if cut or cut_other:
                return (*kept, node), True
        kept.append(nodes[n] if not isinstance(node, Branch) else node)
    return tuple(kept), False
