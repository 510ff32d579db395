"""What goes to a loopback server and comes back, and what may go wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit


@dataclass
class Request:
    """One request as it came in, and what was done about it."""

    method: str
    target: str  # as sent: path and query, or an absolute URL when used as a proxy
    headers: dict[str, str]  # names in lower case
    body: bytes = b""
    status: int = 0  # what was answered; 0 if the connection was dropped
    sent_bytes: int = 0  # bytes of the answer's body given to the socket

    @property
    def path(self) -> str:
        """The path alone, percent-decoded."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> str:
        return urlsplit(self.target).query

    @property
    def range_start(self) -> int | None:
        """The first byte asked for, None without a Range header."""
        asked = self.headers.get("range", "")
        return int(asked[6:].split("-")[0]) if asked.startswith("bytes=") else None

    @property
    def range_bytes(self) -> int:
        """How many bytes a Range header with both ends asks for; 0 for any other."""
        first, _, last = self.headers.get("range", "").removeprefix("bytes=").partition("-")
        return int(last) + 1 - int(first) if first and last else 0


@dataclass(frozen=True)
class Answer:
    """What a protocol answers; `body` is the whole file, the server cuts ranges out of it."""

    status: int = 200
    body: bytes | Path = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None  # without quotes
    ranges: bool = True  # False: a server that knows no ranges

    @classmethod
    def of_json(cls, value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> Answer:
        head = {"Content-Type": "application/json", **headers}
        return cls(status, json.dumps(value).encode(), head, ranges=False)

    @classmethod
    def redirect(cls, location: str, headers: Mapping[str, str] = {}, status: int = 302) -> Answer:
        return cls(status, b"", {"Location": location, **headers}, ranges=False)

    @property
    def size_bytes(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size

    def open(self) -> BinaryIO:
        return BytesIO(self.body) if isinstance(self.body, bytes) else self.body.open("rb")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. Fields combine."""

    status: int | None = None  # this status with an empty body instead of the answer
    headers: Mapping[str, str] = field(default_factory=dict)  # added, such as Retry-After
    drop: bool = False  # close the connection without a word
    cut_after: int | None = None  # close after this many bytes of the body
    stall_after: int | None = None  # go silent after this many bytes of the body ...
    stall_s: float = 60.0  # ... for this long (or until the server stops)
    ignore_range: bool = False  # 200 with the whole file
    wrong_bytes: bool = False  # the first byte sent of the body is flipped
    etag: str | None = None  # another etag than the file's
    more_length: int = 0  # Content-Length claims this many bytes more than are sent
    no_length: bool = False  # no Content-Length: the end is the end of the connection
    bytes_per_s: float | None = None  # throttle
    content_encoding: str | None = None  # claimed, not applied


def next_block(sent: int, length: int, fault: Fault, block_bytes: int) -> int:
    """How much to send next, so that a fault strikes at its very byte."""
    block = min(block_bytes, length - sent)
    for stop in (fault.cut_after, fault.stall_after):
        if stop is not None and sent < stop:
            block = min(block, stop - sent)
    return block


def range_of(asked: str, size: int) -> tuple[int, int] | None:
    """`bytes=a-b`, `bytes=a-` or `bytes=-n` as a half-open range, None if it cannot be had."""
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    start = int(first)
    end = min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None
