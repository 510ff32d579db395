"""python -m tests.formats.differential N: N broken headers, read here and by ggml's own reader.

Prints as JSON how often the two agree, and the reasons where they do not. It is a process of
its own because ggml may abort on a header that it has no check for.
"""

from __future__ import annotations

import ctypes
import json
import random
import re
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from localllm.errors import DamagedFile
from localllm.formats import parse_header
from tests.support.gguf_writer import Arr, T, Val, header_bytes

LARGE = [0, 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


class InitParams(ctypes.Structure):
    """struct gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def whole_file() -> tuple[bytes, int]:
    """A small model file and the size of its header."""
    keys = {
        "general.architecture": "llama",
        "general.alignment": Val("u32", 32),
        "llama.block_count": Val("u32", 1),
        "tokenizer.ggml.tokens": Arr("str", [f"t{i}" for i in range(20)]),
        "tokenizer.ggml.scores": Arr("f32", [float(i) for i in range(20)]),
    }
    tensors = [T("token_embd.weight", (32, 20), "Q8_0"), T("blk.0.ffn_up.weight", (256, 2), "Q4_K")]
    header = header_bytes(keys, tensors)
    return header + bytes(4096), len(header)


def broken(whole: bytes, header_size: int, rng: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(rng.randrange(1, 4)):
        at, how = rng.randrange(header_size - 8), rng.random()
        if how < 0.6:
            content[at] = rng.randrange(256)
        elif how < 0.9:
            number = rng.choice(LARGE) + rng.randrange(-2, 3)
            struct.pack_into("<Q", content, at, number % 2**64)
        else:
            del content[at : at + rng.randrange(1, 9)]
    return bytes(content)


def ggml() -> Any:
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    library = ctypes.CDLL(str(next(folder / n for n in names if (folder / n).exists())))
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    library.gguf_free.argtypes = [ctypes.c_void_p]
    return library


def main(n: int) -> None:
    library = ggml()
    log: list[bytes] = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
        lambda level, text, data: log.append(text)
    )
    library.ggml_log_set(callback, None)
    whole, header_size = whole_file()
    rng, seen = random.Random(20), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broken.gguf"
        for _ in range(n):
            content = broken(whole, header_size, rng)
            path.write_bytes(content)
            log.clear()
            theirs = library.gguf_init_from_file(str(path).encode(), InitParams(True, None))
            if theirs:
                library.gguf_free(theirs)
            try:
                parse_header(content)
            except DamagedFile as error:
                reason = re.sub(r"b?'.*'|b\".*\"|\d+", "_", error.message)
                seen[f"only here: {reason}" if theirs else "both refuse"] += 1
            else:
                said = re.sub(r"\d+|'.*'", "_", (log or [b""])[0].decode(errors="replace"))
                seen["both read" if theirs else f"only ggml: {said.strip()}"] += 1
    print(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]))
