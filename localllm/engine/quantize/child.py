"""The process that runs llama_model_quantize for `quantize`.

A request is a JSON line on stdin, its answer JSON lines on stdout: commit, tensor, fallback,
unweighted, needs_imatrix, then done or failed. When stdin closes (the parent is gone) it ends
at once.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import queue
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from localllm.engine import native
from localllm.engine.ftypes import tensor_type
from localllm.engine.load import is_damage, kv_overrides
from localllm.engine.logs import LogLine

# "[   1/ 236] token_embd.weight     - [   640, 262144,      1,      1], type =    f16, converting
#  to q8_0 .. size =   320.00 MiB ->   170.00 MiB"; a dry run names the type at the end instead
_TENSOR = re.compile(
    r"\[ *(?P<number>\d+)/ *(?P<total>\d+)\] (?P<name>.+?) +- \[(?P<shape>[\d, ]+)\], "
    r"type = *(?P<type>\w+), (?:converting to (?P<to>\w+) \.\. )?"
    r"size = *[\d.]+ MiB(?: -> +[\d.]+ MiB(?: \((?P<planned>\w+)\))?)?$"
)
_FALLBACK = re.compile(
    r"warning: (?P<tensor>.+?) +- ncols +(?P<row_length>\d+) not divisible by +"
    r"(?P<block_length>\d+) \(required for type +(?P<wanted>\w+)\) .*"
    r"-> falling back to +(?P<used>\w+)$"
)
_UNWEIGHTED = re.compile(r"did not find weights for (?P<tensor>.+)$")
_HALF = re.compile(r"^\[ *\d+/ *\d+\] .+, type = *\w+,$")  # the rest follows a remark


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it kills
    _keep_stdout()
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    llama = native.lib()
    native.on_line(_Report())
    commit = native.ggml("ggml_commit", ctypes.c_char_p)()
    while True:
        request = json.loads(requests.get())
        _send("commit", commit=(commit or b"unknown").decode())
        _serve(llama, request)


def _keep_stdout() -> None:
    """Nobody but `_send` writes to the parent: a dying ggml starts a debugger, which prints."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def _serve(llama: Any, request: dict[str, Any]) -> None:
    keep: list[Any] = []
    params = _params(llama, request, keep)
    output = request["output"] or os.devnull
    with native.capture() as log:
        failed = llama.llama_model_quantize(
            os.fsencode(request["source"]), os.fsencode(output), ctypes.byref(params)
        )
    if failed:
        reason = native.reason(log) or "no reason given"
        _send("failed", reason=reason, damaged=is_damage(reason))
    else:
        _send("done")


def _listen(requests: queue.SimpleQueue[str]) -> None:
    """Requests as they come; when there is no more parent to send one, this process ends."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(1)


def _send(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


class _Report:
    """llama.cpp's log lines as events."""

    def __init__(self) -> None:
        self.half = ""

    def __call__(self, line: LogLine) -> None:
        text = line.text.strip()
        if _HALF.match(text):
            self.half = text
            return
        if self.half and text.startswith(("converting to", "size =")):
            text, self.half = f"{self.half} {text}", ""
        if tensor := _TENSOR.search(text):
            _send("tensor", tensor=_tensor(tensor))
        elif fallback := _FALLBACK.search(text):
            values: dict[str, Any] = fallback.groupdict()
            for name in ("row_length", "block_length"):
                values[name] = int(values[name])
            _send("fallback", fallback=values)
        elif unweighted := _UNWEIGHTED.search(text):
            _send("unweighted", tensor=unweighted["tensor"])
        elif "will require an imatrix" in text:
            _send("needs_imatrix")


def _tensor(match: re.Match[str]) -> dict[str, Any]:
    shape = [int(length) for length in match["shape"].split(",")]
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    to_type = match["to"] or match["planned"] or match["type"]
    return {
        "name": match["name"],
        "shape": shape,
        "from_type": match["type"],
        "to_type": to_type,
        "before_bytes": _bytes(match["type"], shape),
        "after_bytes": _bytes(to_type, shape),
        "number": int(match["number"]),
        "total": int(match["total"]),
    }


def _bytes(type_name: str, shape: list[int]) -> int:
    """Exact size of a tensor's data; the log rounds it."""
    row_size = native.ggml("ggml_row_size", ctypes.c_size_t, ctypes.c_int, ctypes.c_int64)
    rows = 1
    for length in shape[1:]:
        rows *= length
    return int(row_size(tensor_type(type_name), shape[0])) * rows


def _params(llama: Any, request: dict[str, Any], keep: list[Any]) -> Any:
    params = llama.llama_model_quantize_default_params()
    params.ftype = request["ftype"]
    params.nthread = request["n_threads"]
    params.only_copy = request["copies"]
    params.pure = request["pure"]
    params.quantize_output_tensor = not request["leave_output"]
    params.allow_requantize = request["allow_requantize"]
    params.keep_split = request["keep_split"]
    params.dry_run = request["output"] is None
    params.max_buf_size = request["max_buffer_bytes"]
    if request["prune_layers"]:
        layers = (ctypes.c_int32 * (len(request["prune_layers"]) + 1))(
            *sorted(set(request["prune_layers"])), -1
        )
        params.prune_layers = layers
        keep.append(layers)
    if request["importance"] is not None:
        importance = _importance(llama, request["importance"], keep)
        params.imatrix = importance
        keep.append(importance)
    if request["output_type"]:
        params.output_tensor_type = tensor_type(request["output_type"])
    if request["token_embedding_type"]:
        params.token_embedding_type = tensor_type(request["token_embedding_type"])
    if request["tensor_types"]:
        chosen = request["tensor_types"]
        array = (llama.llama_model_tensor_override * (len(chosen) + 1))()
        for slot, (pattern, name) in zip(array, chosen, strict=False):
            slot.pattern, slot.type = pattern.encode(), tensor_type(name)
        params.tt_overrides = array  # ended by a NULL pattern
        keep.append(array)
    if request["metadata"]:
        overrides = kv_overrides(llama, request["metadata"])
        params.kv_overrides = overrides
        keep.append(overrides)
    return params


def _importance(llama: Any, request: dict[str, Any], keep: list[Any]) -> Any:
    """llama_model_imatrix_data[] whose vectors are the mapped file's."""
    array = (llama.llama_model_imatrix_data * (len(request["vectors"]) + 1))()
    if not request["vectors"]:
        return array  # a plan: only whether there is one counts
    with Path(request["path"]).open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for slot, (name, offset, length) in zip(array, request["vectors"], strict=False):
        vector = (ctypes.c_float * length).from_buffer(mapped, offset * 4)
        slot.name, slot.size = name.encode(), length
        slot.data = ctypes.cast(vector, ctypes.POINTER(ctypes.c_float))
        keep.append(vector)
    return array  # ended by a NULL name
