"""From a stream of token bytes to text that may be shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Utf8Assembler:
    """Joins the bytes of tokens to whole characters.

    A character may be spread over several tokens (emoji, CJK in byte-level vocabularies):
    it comes out with its last byte. Bytes that can never become a character come out as
    U+FFFD at once; an unfinished character at the end is never shown.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, raw: bytes) -> str:
        return self._decoder.decode(raw)


class StopMatcher:
    """Finds the first stop string in a stream, and never lets a part of one out early.

    Of several that match, the one that starts first wins.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that is now certain to be shown; "" once `stopped`."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = self._pending()
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """What was held back for a stop string that did not come."""
        held, self._held = self._held, ""
        return held

    def _pending(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
