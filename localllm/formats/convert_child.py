"""The process that runs llama.cpp's converter for `convert`. A script: it imports nothing of
localllm, whose `gguf` is another one than the converter's.

One JSON line comes in on stdin, JSON lines go out on stdout: progress, then done or failed.
When stdin closes (the parent is gone) it ends at once.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO


class RemoteCode(Exception):
    """The model wants Python code of its own to be run."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it kills
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the converter prints goes to stderr
    with tempfile.TemporaryDirectory() as cache:
        _prepare(request, cache, out)
        try:
            runpy.run_path(str(Path(request["converter"]) / request["script"]), run_name="__main__")
        except SystemExit as error:
            if error.code not in (None, 0):
                _failed(out, error)
                return
        except BaseException as error:  # noqa: BLE001 - the boundary of this process
            _failed(out, error)
            return
    _send(out, event="done")


def _prepare(request: dict[str, Any], cache: str, out: TextIO) -> None:
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_MODULES_CACHE": cache,
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    converter = Path(request["converter"])
    sys.path[:0] = [str(converter), str(converter / "gguf-py")]
    sys.argv = [request["script"], *request["arguments"]]
    _refuse_code(request["folder"])
    _report_progress(out)
    _add_metadata(request["metadata"])
    if request["header_only"]:
        _leave_tensors_out()
    if request["pre_tokenizer"] is not None:
        _take_pre_tokenizer(request["pre_tokenizer"])


def _refuse_code(folder: str) -> None:
    """llama.cpp's converter asks for trust_remote_code in many places: it is never given.

    transformers' doors to code of a model are shut, and no Python file below the model's
    folder can be opened.
    """
    dynamic: Any = import_module("transformers.dynamic_module_utils")
    ask = dynamic.resolve_trust_remote_code

    def never(trust: Any, *args: Any, **kwargs: Any) -> bool:
        kwargs.pop("trust_remote_code", None)
        return bool(ask(False, *args, **kwargs))

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RemoteCode(str(args[0]) if args else "")

    dynamic.resolve_trust_remote_code = never
    for door in (
        "get_class_from_dynamic_module",
        "get_class_in_module",
        "get_cached_module_file",
        "create_dynamic_module",
        "init_hf_modules",
    ):
        setattr(dynamic, door, refuse)

    below = folder + os.sep

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(args[0], str):
            return
        if args[0].endswith((".py", ".pyc")) and os.path.realpath(args[0]).startswith(below):
            raise RemoteCode(args[0])

    sys.addaudithook(hook)


def _report_progress(out: TextIO) -> None:
    """The converter draws its progress with tqdm; here it becomes numbers."""

    class Meter:
        def __init__(self, *args: Any, total: int | None = None, **kwargs: Any) -> None:
            self.total, self.done = int(total or 0), 0

        def update(self, n: int = 1) -> None:
            self.done += int(n)
            _send(out, event="progress", done=self.done, total=self.total)

        def reset(self, total: int | None = None) -> None:
            self.total, self.done = int(total or 0), 0

        def set_description(self, *args: Any, **kwargs: Any) -> None: ...

        def close(self) -> None: ...

    tqdm: Any = import_module("tqdm")
    tqdm.tqdm = Meter  # gguf_writer imports it when it writes


def _add_metadata(pairs: dict[str, str]) -> None:
    GGUFWriter: Any = import_module("gguf").GGUFWriter  # the converter's own  # noqa: N806
    write = GGUFWriter.write_header_to_file

    def with_pairs(self: Any, *args: Any, **kwargs: Any) -> Any:
        for key, value in pairs.items():
            self.add_string(key, value)
        return write(self, *args, **kwargs)

    GGUFWriter.write_header_to_file = with_pairs


def _leave_tensors_out() -> None:
    """The converter's tensors are lazy: until they are written, only shapes and types are known.
    Written is a hole of the size that they would have."""
    GGUFWriter: Any = import_module("gguf").GGUFWriter  # noqa: N806

    def hole(self: Any, *, progress: bool = False) -> None:
        self.write_ti_data_to_file()
        for file, tensors in zip(self.fout, self.tensors, strict=True):
            self.write_padding(file, file.tell())
            sizes = (self.ggml_pad(one.nbytes, self.data_alignment) for one in tensors.values())
            file.truncate(file.tell() + sum(sizes))

    GGUFWriter.write_tensors_to_file = hole


def _take_pre_tokenizer(name: str) -> None:
    import_module("conversion.base").TextModel.get_vocab_base_pre = lambda self, tokenizer: name


def _failed(out: TextIO, error: BaseException) -> None:
    import traceback

    traceback.print_exc()
    chain: list[BaseException] = []
    while error is not None and len(chain) < 8:
        chain.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    told = next((e for e in chain if isinstance(e, RemoteCode)), chain[0])
    _send(
        out,
        event="failed",
        type=type(told).__name__,
        message=str(told) or _where(told),
        missing=getattr(told, "name", None) if isinstance(told, ImportError) else None,
        errno=getattr(told, "errno", None) if isinstance(told, OSError) else None,
        in_tokenizer=_in_tokenizer(told),
    )


def _in_tokenizer(error: BaseException) -> bool:
    """Whether it failed while transformers or gguf-py read the tokenizer's files."""
    import traceback

    names = [Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)]
    return any(name == "vocab.py" or name.startswith("tokenization_") for name in names)


def _where(error: BaseException) -> str:
    """The statement that failed, for an assertion without words."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}: {frames[-1].line}" if frames else ""


def _send(out: TextIO, **values: Any) -> None:
    out.write(json.dumps(values) + "\n")
    out.flush()


def _die_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
