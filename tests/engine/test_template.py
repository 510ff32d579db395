"""Chat templates: as Hugging Face renders them, and what a hostile one may not do."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest

from localllm.engine.model import Model
from localllm.engine.template import ChatTemplate, encode_prompt, merge_system
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Message
from tests.support.gguf_writer import Val
from tests.support.tiny_models import tiny_llama
from tests.support.tiny_vocab import CHATML, bpe_vocab

SYSTEM = Message("system", "Be brief.")
USER = Message("user", "Hi")
ASSISTANT = Message("assistant", "Hello!")
TALK = [SYSTEM, USER, ASSISTANT, Message("user", "Bye")]

# As published with the models, shortened where a part says nothing here.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' if add_generation_prompt }}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {%- set system_message = messages[0]['content'] %}\n"
    "    {%- set loop_messages = messages[1:] %}\n"
    "{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n\n"
    "{{- bos_token }}\n"
    "{%- for message in loop_messages %}\n"
    "    {%- if message['role'] == 'user' %}\n"
    "        {%- if loop.first and system_message is defined %}\n"
    "            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}\n"
    "        {%- else %}\n"
    "            {{- ' [INST] ' + message['content'] + ' [/INST]' }}\n"
    "        {%- endif %}\n"
    "    {%- elif message['role'] == 'assistant' %}\n"
    "        {{- ' ' + message['content'] + eos_token}}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
)
QWEN_TOOLS = (
    "{%- if tools %}\n    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}\n"
    '    {%- for tool in tools %}\n        {{- "\\n" }}\n        {{- tool | tojson }}\n'
    '    {%- endfor %}\n    {{- "\\n</tools><|im_end|>\\n" }}\n{%- endif %}\n'
    "{%- for message in messages %}\n"
    "    {%- if message.tool_calls %}\n        {{- '<|im_start|>' + message.role }}\n"
    "        {%- for tool_call in message.tool_calls %}\n"
    "            {%- if tool_call.function is defined %}\n"
    "                {%- set tool_call = tool_call.function %}\n            {%- endif %}\n"
    '            {{- \'\\n<tool_call>\\n{"name": "\' }}\n            {{- tool_call.name }}\n'
    '            {{- \'", "arguments": \' }}\n            {{- tool_call.arguments | tojson }}\n'
    "            {{- '}\\n</tool_call>' }}\n        {%- endfor %}\n"
    "        {{- '<|im_end|>\\n' }}\n    {%- else %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str | None, messages: list[Message], **options: object) -> str:
    template = ChatTemplate(source, tokens=TOKENS, now=lambda: datetime(2025, 7, 3, 9, 5))
    return template.render(messages, **options).text  # type: ignore[arg-type]


def test_chatml() -> None:
    assert render(CHATML, TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(CHATML, [USER], add_generation_prompt=False) == (
        "<|im_start|>user\nHi<|im_end|>\n"
    )


def test_llama3() -> None:
    assert render(LLAMA3, [SYSTEM, Message("user", " Hi \n")]) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_mistral_whitespace_control() -> None:
    assert render(MISTRAL, TALK) == (
        "<s> [INST] Be brief.\n\nHi [/INST] Hello!</s> [INST] Bye [/INST]"
    )


def test_a_refused_system_role_goes_into_the_first_user_turn() -> None:
    assert render(GEMMA, TALK) == (
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
        "Hello!<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_system_message_that_the_template_would_drop_is_not_lost() -> None:
    only_users = (
        "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    assert render(only_users, [SYSTEM, USER]) == "[Be brief.\n\nHi]"
    assert not ChatTemplate(only_users).supports_system
    assert ChatTemplate(CHATML).supports_system


def test_the_templates_own_refusal_is_the_message() -> None:
    with pytest.raises(UsageProblem, match="refuses this conversation: Conversation roles must"):
        render(GEMMA, [USER, USER])


def test_tools_and_tool_calls() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"q": "<é & 'x'>"}}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [USER, Message("assistant", "", {"tool_calls": [call]}), Message("tool", "3")]
    assert render(QWEN_TOOLS, talk, tools=[tool]) == (
        '<|im_start|>system\n# Tools\n<tools>\n{"type": "function", "function": {"name": "add", '
        '"parameters": {"q": "<é & \'x\'>"}}}\n</tools><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n'
        "</tool_call><|im_end|>\n<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_tool_use_variant_is_taken_with_tools() -> None:
    template = ChatTemplate("plain", named={"tool_use": "with {{ tools|length }} tools"})
    assert template.render([USER]).text == "plain"
    assert template.render([USER], tools=[{}, {}]).text == "with 2 tools"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ strftime_now('%Y-%m-%d') }}", "2025-07-03"),
        ("{% generation %}a{% endgeneration %}b", "ab"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ {'b': 1, 'a': [True, None]} | tojson }}", '{"b": 1, "a": [true, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ thinking | default('off') }}", "off"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ messages[0].content.split('H')[-1].strip()[::-1] }}", "i"),
        ("{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}"
         "{{ n.x }}", "2"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) ~ f('b') }}", "<1><b>"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ ['x', 'y'] | join(', ') }}{{ 'a-b' | replace('-', '+') }}", "x, ya+b"),
        ("{{ ' t ' | trim }}", "t"),
        ("{{ '%s %03d' % ('n', 7) }}{{ '{} {:>4}'.format('a', 2) }}", "n 007a    2"),
        ("{% for m in messages recursive %}{{ loop.index }}{{ loop.length }}{% endfor %}", "1222"),
        ("{{ messages[0]['role'] in ['user', 'x'] and messages is not string }}", "True"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
    ],
)  # fmt: skip
def test_what_templates_use(source: str, expected: str) -> None:
    assert render(source, [USER, Message("assistant", "Hello")]) == expected


def test_variables_reach_the_template() -> None:
    template = ChatTemplate("{{ enable_thinking }}{{ documents[0] }}")
    assert template.render([USER], variables={"enable_thinking": 1, "documents": [2]}).text == "12"


# --- without a template ----------------------------------------------------------------------


def test_a_base_model_gets_a_plain_dialogue() -> None:
    rendered = ChatTemplate(None).render(TALK)
    assert rendered.text == "Be brief.\n\nUser: Hi\nAssistant: Hello!\nUser: Bye\nAssistant:"
    assert rendered.stop == ("\nUser:",)
    assert ChatTemplate(None).is_plain


def test_no_messages() -> None:
    with pytest.raises(UsageProblem, match="no messages"):
        ChatTemplate(None).render([])


def test_merge_system() -> None:
    two = [SYSTEM, Message("system", "Be kind."), ASSISTANT, USER]
    assert [m.content for m in merge_system(two)] == ["Hello!", "Be brief.\n\nBe kind.\n\nHi"]
    assert merge_system([SYSTEM]) == [Message("user", "Be brief.")]
    assert merge_system([USER]) == [USER]


# --- from the file ---------------------------------------------------------------------------


def test_the_files_own_templates(tmp_path: Path) -> None:
    path = tiny_llama(
        tmp_path / "x.gguf",
        chat_template="{{ bos_token }}main",
        metadata={"tokenizer.chat_template.tool_use": Val("str", "tools of {{ eos_token }}")},
    )
    with Model.load(path) as model:
        template = ChatTemplate.of(model)
        assert template.render([USER]).text == "<|begin_of_text|>main"
        assert template.render([USER], tools=[{}]).text == "tools of <|end_of_text|>"
        assert ChatTemplate.of(model, "mine").render([USER]).text == "mine"


@pytest.mark.parametrize("written", ["", "{{ bos_token }}"])
def test_one_bos_whoever_writes_it(llama: Model, written: str) -> None:
    words = bpe_vocab()
    text = ChatTemplate.of(llama, written + CHATML).render([USER]).text
    tokens = encode_prompt(llama.tokenizer, text)
    assert tokens.count(words.bos) == 1
    assert tokens[:2] == [words.bos, words.id("<|im_start|>")]
    assert words.eos not in tokens


# --- hostile ---------------------------------------------------------------------------------


def grow(start: str, step: str, end: str = "") -> str:
    """A value n.s that starts as `start` and is replaced by `step` sixty times."""
    head = "{% set n = namespace(s=" + start + ") %}{% for i in range(60) %}"
    return head + "{% set n.s = " + step + " %}{% endfor %}" + end


RECURSE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"

HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a huge range": "{% for a in range(10**9) %}{% endfor %}",
    "a repeated string": "{{ 'a' * 10**10 }}",
    "a repeated list": "{{ [1] * 10**10 }}",
    "a huge number": "{{ (10 ** 1000) ** (10 ** 6) }}",
    "squaring": grow("10", "n.s * n.s"),
    "doubling by ~": grow("'a'", "n.s ~ n.s"),
    "doubling by +": grow("'a'", "n.s + n.s"),
    "doubling by set": grow("'a'", "n.s %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset"),
    "doubling by replace": grow("'a'", "n.s.replace('a', 'aa')"),
    "doubling by |replace": grow("'a'", "n.s|replace('a', 'aa')"),
    "doubling by join": grow("'a'", "[n.s, n.s]|join"),
    "doubling by .join": grow("'a'", "''.join([n.s, n.s])"),
    "doubling by %": grow("'a'", "'%s%s' % (n.s, n.s)"),
    "doubling by format": grow("'a'", "'{0}{0}'.format(n.s)"),
    "doubling lists": grow("[1]", "n.s + n.s"),
    "shared lists as JSON": grow("[1]", "[n.s, n.s]", "{{ n.s|tojson }}"),
    "shared lists as text": grow("[1]", "[n.s, n.s]", "{{ n.s }}"),
    "shared lists as string": grow("[1]", "[n.s, n.s]", "{{ n.s|string|length }}"),
    "many slices": "{% set s = 'a' * 1000000 %}" + grow("[]", "n.s + [s[1:]]"),
    "text in a loop": "{% for i in range(99999) %}" + "y" * 50_000 + "{% endfor %}",
    "output without end": "{% for i in range(99999) %}{{ 'y' * 5000 }}{% endfor %}",
    "exponential macros": RECURSE + "{{ f(40) }}",
    "endless macros": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "endless loops": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "wide recursion": "{% for x in range(99999) recursive %}"
    "{{ loop(range(99999)) if loop.depth < 3 }}{% endfor %}",
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attributes by filter": "{{ (''|attr('__class__')).__mro__ }}",
    "attributes by map": "{{ ['']|map(attribute='__class__.__mro__')|list|first.x }}",
    "attributes by format": "{{ '{0.__class__.__mro__}'.format(messages).x }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "mutation": "{{ messages.append(1) }}",
    "a wide %": "{{ '%999999999d' % 1 }}",
    "a wide format": "{{ '{:999999999}'.format(1) }}",
    "a computed width": "{{ '{:{}}'.format(1, 999999999) }}",
    "a starred width": "{{ '%*d' % (999999999, 1) }}",
    "a wide date": "{{ strftime_now('%999999999d') }}",
    "a wide indent": "{{ {'a': 1}|tojson(indent=10**9) }}",
    "padding": "{{ 'a'.ljust(10**10) }}",
    "centering": "{{ 'a'|center(10**10) }}",
    "batches": "{{ [1]|batch(10**10, 0)|list }}",
    "lorem ipsum": "{{ lipsum(10**6) }}",
    "rounding": "{{ 1.5|round(10**9, 'floor') }}",
    "bytes": "{{ (5).to_bytes(10**10) }}",
    "a slow strip": "{{ ('a' * 2000000).strip('b' * 2000000 ~ 'a') }}",
    "a deep template": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "many signs": "{{ " + "-" * 50_000 + "1 }}",
    "deep blocks": "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "a big template": "x" * 200_000,
    "a long number": "{{ " + "9" * 6000 + " }}",
    "files": "{% include '/etc/passwd' %}",
    "imports": "{% import 'os' as os %}",
    "a syntax error": "{% for %}",
    "an unknown tag": "{% frobnicate %}",
    "nothing there": "{{ nope.nope.nope }}",
    "division": "{{ 1 / 0 }}",
    "types": "{{ 1 + 'a' }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_one_line_in_bounded_time_and_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localllm.engine.budget.MAX_SECONDS", 1.0)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    with pytest.raises((EngineError, UsageProblem)) as caught:
        render(HOSTILE[name], [USER])
    assert time.process_time() - begun < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    assert "template" in caught.value.message


def test_an_honest_template_has_room_for_a_long_conversation() -> None:
    talk = [SYSTEM, *[USER, Message("assistant", "word " * 2000)] * 150]
    begun = time.process_time()
    text = render(QWEN_TOOLS, talk)
    assert len(text) > 150 * 10_000
    assert time.process_time() - begun < 3
