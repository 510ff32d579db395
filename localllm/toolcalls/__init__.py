"""Tool calls of real models: told from text while an answer streams, and forced by a grammar.

format = ToolFormat.of(template, arch)
sampling = format.sampling(sampling, tools, "auto")
parser = format.parser(tools)
for piece in stream:
    for part in parser.feed(piece.text): ...
for part in parser.finish(): ...
"""

from localllm.toolcalls.calls import (
    CallArguments,
    CallEnd,
    CallStart,
    Part,
    TextPart,
    Tool,
    ToolCall,
)
from localllm.toolcalls.formats import ToolFormat
from localllm.toolcalls.parser import ToolParser, read_calls

__all__ = [
    "CallArguments", "CallEnd", "CallStart", "Part", "TextPart", "Tool", "ToolCall", "ToolFormat",
    "ToolParser", "read_calls",
]  # fmt: skip
