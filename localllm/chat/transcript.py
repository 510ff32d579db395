"""A conversation as a file: Markdown to read, JSON to keep, and JSON back again."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from localllm.chat.conversation import Conversation, Entry
from localllm.chat.files import read_text
from localllm.chat.kept import entry_of, kept
from localllm.errors import DamagedFile, LocalLLMError, UsageProblem

_BESIDE = ("tool_calls", "tool_call_id", "name")  # keys of OpenAI's messages that templates read
_NAMES = {"system": "System", "user": "You", "assistant": "Model", "tool": "Tool"}


def as_json(entries: Sequence[Entry], about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Plain data; images in base64."""
    messages = []
    for entry in entries:
        one = kept(entry)
        message: dict[str, Any] = {"role": one.role, "content": one.content, **one.data}
        if one.attachments:
            message["images"] = [base64.b64encode(blob).decode() for blob in one.attachments]
        messages.append(message)
    return {**(about or {}), "messages": messages}


def as_markdown(entries: Sequence[Entry], title: str = "") -> str:
    """For people. What was thought is quoted; what a model no longer saw is there too."""
    parts = [f"# {title}"] if title else []
    for entry in entries:
        name = "Summary" if entry.is_summary else entry.model or _NAMES[entry.role]
        parts.append(f"## {name}")
        if entry.thinking:
            parts.append("\n".join(f"> {line}" for line in entry.thinking.splitlines()))
        if entry.images:
            parts.append(f"({len(entry.images)} images)")
        parts.append(entry.content.strip())
    return "\n\n".join(part for part in parts if part) + "\n"


def write_file(path: Path, entries: Sequence[Entry], about: Mapping[str, Any]) -> None:
    """As JSON if it is called so, else as Markdown. What is there already is not overwritten.

    Raises UsageProblem, LocalLLMError.
    """
    if path.suffix.lower() == ".json":
        text = json.dumps(as_json(entries, about), ensure_ascii=False, indent=2) + "\n"
    else:
        text = as_markdown(entries, str(about.get("title") or ""))
    try:
        with path.open("x", encoding="utf-8", newline="\n", errors="replace") as file:
            file.write(text)
    except FileExistsError:
        raise UsageProblem(f"{path} is there already", "choose another name") from None
    except OSError as error:
        raise LocalLLMError(f"{path} cannot be written: {error.strerror or error}") from None


def read_file(path: Path) -> Conversation:
    """A conversation from JSON: ours, or a list of chat messages. Raises FileGone, DamagedFile."""
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise DamagedFile(f"{path} is no JSON") from None
    messages = data.get("messages") if isinstance(data, Mapping) else data
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise DamagedFile(f"{path} holds no list of messages")
    return Conversation([entry_of(_plain(message), _images(message)) for message in messages])


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with text for its content, where OpenAI has a list of parts, or null beside tool
    calls; what it puts beside the content stands in `extra` here."""
    content = message.get("content")
    if content is None and "tool_calls" in message:
        content = ""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    beside = {key: message[key] for key in _BESIDE if key in message}
    extra = message.get("extra") or beside
    return {**message, "content": content, "extra": extra}


def _data_of(url: Any) -> str:
    """The base64 in a data: URL. Raises DamagedFile: no other is fetched."""
    text = url.get("url") if isinstance(url, Mapping) else url
    head, _, data = str(text).partition(";base64,")
    if not head.startswith("data:image/") or not data:
        raise DamagedFile("an image of this conversation is no data: URL")
    return data


def _images(message: Mapping[str, Any]) -> tuple[bytes, ...]:
    parts = message.get("content")
    shown = [
        _data_of(part.get("image_url"))
        for part in (parts if isinstance(parts, list) else [])
        if isinstance(part, Mapping) and part.get("type") == "image_url"
    ]
    try:
        given = [*(message.get("images") or ()), *shown]
        return tuple(base64.b64decode(item, validate=True) for item in given)
    except (ValueError, TypeError):
        raise DamagedFile("an image of this conversation is no base64") from None
