"""What was typed at the prompt, kept from one run to the next.

A JSON string a line. Several processes append at once: each line is one write to the end of the
file. Only its owner may read it.
"""

from __future__ import annotations

import json
import os

from localllm.errors import LocalLLMError
from localllm.registry import work
from localllm.registry.database import make_folder
from localllm.registry.store import Registry

_KEEP = 2000  # lines that a trimmed file has
_TRIM_BYTES = 2 << 20
_MAX_ENTRY_CHARS = 100_000  # a pasted book is not typed again from history


class InputHistory:
    """`<home>/chat_history.jsonl`. A file that cannot be read or written is no history, and no
    reason to stop a conversation."""

    def __init__(self, registry: Registry) -> None:
        self.path = registry.home / "chat_history.jsonl"
        self._home = registry.home

    def load(self) -> list[str]:
        """What was typed, oldest first; lines that are damaged are left out."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        found = (_entry(line) for line in lines[-_KEEP:])
        return [entry for entry in found if entry is not None]

    def append(self, text: str) -> None:
        if not text.strip() or len(text) > _MAX_ENTRY_CHARS:
            return
        line = json.dumps(text).encode() + b"\n"  # ASCII: one write, no half characters
        try:
            make_folder(self._home)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line)
                size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            if size > _TRIM_BYTES:
                self._trim()
        except (OSError, LocalLLMError):
            return

    def _trim(self) -> None:
        """Keep the newest lines. What another process appends in these microseconds may be lost:
        a line of history."""
        with work.locked(self._home, "chat_history", None):
            lines = self.path.read_bytes().splitlines(keepends=True)[-_KEEP:]
            while len(lines) > 1 and sum(map(len, lines)) > _TRIM_BYTES // 2:
                lines = lines[len(lines) // 2 :]
            new = self.path.with_suffix(".new")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(lines)
            new.replace(self.path)


def _entry(line: str) -> str | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
