"""Server-sent events out of bytes as they arrive.

https://html.spec.whatwg.org/multipage/server-sent-events.html: lines end in LF, CRLF or CR, an
empty line ends an event, several `data` lines are one text, a line that begins with a colon is a
remark. What servers do beside it is read as well: the last event need not be ended by an empty
line.
"""

from __future__ import annotations

from collections.abc import Iterator


class TooLong(Exception):
    """An event larger than the limit."""


class EventReader:
    """Feed bytes, take the data of whole events."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False  # the LF of a CRLF that was cut in two
        self._looked = 0  # bytes held that are known to end no line

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The data of each event that is complete now. Raises TooLong."""
        self._held += chunk
        start = 0
        while True:
            line, start = self._line(start)
            if line is None:
                break
            text = self._take(line)
            if text is not None:
                yield text
        del self._held[:start]
        if len(self._held) + self._size > self._limit:
            raise TooLong

    def finish(self) -> str | None:
        """The data of an event that the end cut its empty line off."""
        if self._held:
            line, self._held = bytes(self._held), bytearray()
            self._take(line)
        return self._take(b"")

    def _line(self, start: int) -> tuple[bytes | None, int]:
        """The next whole line from `start`, and where the one after it begins."""
        held = self._held
        if self._after_cr and start < len(held):
            self._after_cr = False
            if held[start] == 0x0A:
                start += 1
        begin = max(start, self._looked)
        lf, cr = held.find(b"\n", begin), held.find(b"\r", begin)
        self._looked = 0
        if lf < 0 and cr < 0:
            self._looked = len(held) - start  # as far as it is kept
            return None, start
        if cr < 0 or 0 <= lf < cr:
            return bytes(held[start:lf]), lf + 1
        self._after_cr = True
        return bytes(held[start:cr]), cr + 1

    def _take(self, line: bytes) -> str | None:
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data).decode("utf-8", "replace") if data else None
        field, colon, value = line.partition(b":")
        if field.removeprefix(b"\xef\xbb\xbf") == b"data" and colon:
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
            if self._size > self._limit:
                raise TooLong
        return None
