"""A text that somebody names: read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

from localllm.errors import FileGone, LocalLLMError, UsageProblem


def read_utf8(path: Path) -> str:
    """The text of a file, whose bytes are its UTF-8 again. Raises FileGone, UsageProblem for what
    is no text, and LocalLLMError where it cannot be read."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileGone(f"there is no file {path}") from None
    except OSError as error:
        if path.is_dir():  # of which Windows says that it may not be read
            raise UsageProblem(f"{path} is a folder, not a text") from None
        raise LocalLLMError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageProblem(
            f"{path} is no UTF-8 text (byte {error.start})",
            f"iconv -f LATIN1 -t UTF-8 {path.name} > {path.stem}.utf8.txt",
        ) from None
    if "\0" in text:
        raise UsageProblem(f"{path} is no text: it holds zero bytes")
    return text
