"""Files that a user puts into a message."""

from __future__ import annotations

from pathlib import Path

from localllm.chat.piped import text_of
from localllm.errors import FileGone, LocalLLMError, UsageProblem
from localllm.ui import Bytes

TEXT_LIMIT_BYTES = 16 << 20
IMAGE_LIMIT_BYTES = 64 << 20
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")
_LANGUAGES = {
    ".py": "python", ".js": "javascript", ".ts": "typescript", ".rs": "rust", ".c": "c", ".h": "c",
    ".cpp": "cpp", ".go": "go", ".java": "java", ".sh": "bash", ".json": "json", ".toml": "toml",
    ".yaml": "yaml", ".yml": "yaml", ".html": "html", ".css": "css", ".sql": "sql", ".rb": "ruby",
}  # fmt: skip


def read_text(path: Path) -> str:
    """A file of text. Raises FileGone, UsageProblem for what is no text or too long."""
    raw = _read(path, TEXT_LIMIT_BYTES)
    return text_of(raw, str(path))


def read_image(path: Path) -> bytes:
    """An image as it is on disk. Raises FileGone, UsageProblem for what is none."""
    raw = _read(path, IMAGE_LIMIT_BYTES)
    if not raw.startswith(_IMAGES):
        raise UsageProblem(f"{path} is no image (PNG, JPEG, GIF, BMP or WebP)")
    return raw


def as_message(path: Path, text: str) -> str:
    """The file as a part of a message: its name, and its text in a fence that it cannot close."""
    longest = max((len(run) for run in _fences(text)), default=0)
    fence = "`" * max(3, longest + 1)
    language = _LANGUAGES.get(path.suffix.lower(), "")
    return f"{path.name}:\n{fence}{language}\n{text.rstrip()}\n{fence}"


def _fences(text: str) -> list[str]:
    import re

    return re.findall(r"`{3,}", text)


def _read(path: Path, limit: int) -> bytes:
    try:
        if path.is_dir():
            raise UsageProblem(f"{path} is a folder")
        if not path.exists():
            raise FileGone(f"there is no file {path}")
        if not path.is_file():
            raise UsageProblem(f"{path} is no ordinary file")  # a pipe or device may never end
        size = path.stat().st_size
        if size > limit:
            raise UsageProblem(f"{path} is {Bytes(size)}, more than {Bytes(limit)}")
        return path.read_bytes()
    except OSError as error:
        raise LocalLLMError(f"{path} cannot be read: {error.strerror or error}") from None
