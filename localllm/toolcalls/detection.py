"""Which format of tool calls a chat template speaks, by what it contains.

Verified against the templates that llama.cpp carries in models/templates, and its common/chat.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

_Test = Callable[[str], bool]


def _has(*marks: str) -> _Test:
    return lambda text: all(mark in text for mark in marks)


# In this order: the later tests are true of some templates of the earlier formats too.
_TESTS: tuple[tuple[_Test, str], ...] = (
    (_has("]<]minimax[>["), "none"),  # MiniMax M3, whose marks hold a name space
    (_has("<|tool_call>call:"), "gemma4"),
    (_has("DSML"), "none"),  # DeepSeek V3.2 and V4
    (_has("<|open|>", "<|end_of_msg|>"), "none"),  # Kimi K3
    (_has(">>>all"), "functionary-v3.2"),
    (_has("<|channel|>", "<|message|>"), "harmony"),
    (_has("<|tool_calls_section_begin|>"), "kimi-k2"),
    (_has("<｜tool▁calls▁begin｜>", "```json"), "deepseek-r1"),
    (_has("<｜tool▁calls▁begin｜>"), "deepseek-v3.1"),
    (_has("[TOOL_CALLS]", "[CALL_ID]"), "mistral-call-id"),
    (_has("[TOOL_CALLS]", "[ARGS]"), "mistral-args"),
    (_has("[TOOL_CALLS]"), "mistral"),
    (_has("<|START_ACTION|>"), "command-r7b"),
    (_has("Action:", "tool_name", "```json"), "command-r"),
    (_has("<|tool_list_start|>"), "lfm2"),
    (_has("<|tool_call_start|>"), "lfm2"),
    (_has("List of tools: ["), "lfm2"),
    (_has("<|tools_prefix|>"), "apertus"),
    (_has("<TOOLCALL>"), "nemotron"),
    (_has("functools["), "firefunction"),
    (_has("<minimax:tool_call>"), "minimax"),
    (_has("<seed:tool_call>"), "seed"),
    (_has("<tool_call>", "<function=", "<parameter="), "qwen3-coder"),
    (_has("<arg_key>"), "glm"),
    (_has("<tool_calls>["), "tool-calls"),
    (_has("<tool_calls>"), "minimax-m1"),
    (_has("<|/tool_call|>"), "phi4"),
    (_has("<|tool_call|>"), "granite"),
    (_has("<function=", "</function>"), "functionary-v3.1"),
    (_has("<tool_call>"), "hermes"),
    (_has("<|python_start|>"), "llama4"),
    (_has("<|header_start|>", "func_name1"), "llama4"),
    (_has('"parameters":', "<|python_tag|>"), "llama3"),
    (_has('"parameters":', "ipython"), "llama3"),
)


def format_name(template: str, arch: str | None = None) -> str:
    """The key of FORMATS; `arch` decides where the template says nothing of calls."""
    plain = template.replace('\\"', '"')  # in the strings of a template
    for test, name in _TESTS:
        if test(plain):
            return name
    return "llama4" if arch == "llama4" else "none"
