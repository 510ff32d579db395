"""What llama.cpp allocated, by its own log: one line a buffer as it is made.

`Model.buffers` are of the weights, `Context.buffers` of cache, states, results and computing.
llama.cpp's `llama_get_memory_breakdown` says the same to the byte, but returns a C++ map; the
lines are rounded to 0.01 MiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from localllm.engine import rpc
from localllm.engine.logs import LogLine

MIB = 1024 * 1024

# "load_tensors:   CPU_Mapped model buffer size =   235.16 MiB"; an RPC device's name holds
# brackets and a colon. What ~llama_context says at the end has another form ("size is").
_LINE = re.compile(
    r"^\w+: +(\S+) +(?:DSV4 \S+ )?(model|KV|RS|state|output|compute|LoRA) buffer size = +"
    r"([\d.]+) MiB"
)
_KINDS = {"model": "weights", "LoRA": "weights", "output": "output", "compute": "compute"}


@dataclass(frozen=True)
class BufferUse:
    """Bytes of one buffer type, by ggml's name: "CUDA0" is a device's memory, "CUDA_Host" main
    memory that the device reaches, "CPU_Mapped" the file's pages from the first to the last
    tensor in it (what lies between and is elsewhere counts too), "CPU_REPACK" copies in the
    CPU's own layout."""

    name: str
    weights_bytes: int = 0
    context_bytes: int = 0  # KV cache and recurrent state
    compute_bytes: int = 0
    output_bytes: int = 0  # logits and embeddings, in main memory


def buffers_of(lines: Iterable[LogLine]) -> tuple[BufferUse, ...]:
    """Sum the buffers that these log lines tell of, in the order of their first mention."""
    sums: dict[str, dict[str, int]] = {}
    for line in lines:
        if match := _LINE.match(line.text):
            kinds = sums.setdefault(rpc.plain_name(match[1]), {})
            field = f"{_KINDS.get(match[2], 'context')}_bytes"
            size = round(float(match[3]) * MIB)
            # Graphs that are reserved again replace what was reserved before.
            kinds[field] = size if match[2] == "compute" else kinds.get(field, 0) + size
    return tuple(BufferUse(name, **kinds) for name, kinds in sums.items())
