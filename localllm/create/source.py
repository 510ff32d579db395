"""The Modelfile's text, from a file or stdin."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path

from localllm.errors import FileGone, UsageProblem

MAX_BYTES = 8 << 20  # licenses and few-shot messages included; no Modelfile comes near
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_HINT = "localllm create NAME -f Modelfile"


def read_modelfile(path: Path | None) -> str:
    """The text of the Modelfile at `path`, of stdin where it is None.

    Raises FileGone, UsageProblem for what is a folder, too large, or no text.
    """
    if path is None:
        content = (
            sys.stdin.buffer.read(MAX_BYTES + 1)
            if hasattr(sys.stdin, "buffer")
            else (sys.stdin.read(MAX_BYTES + 1).encode())
        )
        name = "stdin"
    else:
        name = str(path)
        if path.is_dir():
            raise UsageProblem(f"{path} is a folder, not a Modelfile", _HINT)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise FileGone(f"there is no Modelfile {path}", _HINT) from None
    if len(content) > MAX_BYTES:
        raise UsageProblem(f"{name} is larger than {MAX_BYTES >> 20} MiB: no Modelfile", _HINT)
    encoding = next((e for mark, e in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise UsageProblem(
            f"{name} is no text: bytes in line {line} are not UTF-8", _HINT
        ) from None
    if "\0" in text:
        raise UsageProblem(f"{name} is a binary file, not a Modelfile", _HINT)
    return text
