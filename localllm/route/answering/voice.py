"""From pieces of text to parts: thinking and tool calls told from the answer."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.thinking import Splitter
from localllm.toolcalls import Part, TextPart, ToolParser


class Voice:
    """One answer's."""

    def __init__(self, splitter: Splitter | None, parser: ToolParser | None) -> None:
        self._splitter, self._parser = splitter, parser

    def feed(self, text: str) -> list[Part]:
        if self._splitter is None:
            return list(self._parsed(text))
        return [
            part for kind, piece in self._splitter.feed(text) for part in self._placed(kind, piece)
        ]

    def finish(self) -> list[Part]:
        """What was held back."""
        found: list[Part] = []
        if self._splitter is not None:
            for kind, piece in self._splitter.finish():
                found += self._placed(kind, piece)
        if self._parser is not None:
            found += self._parser.finish()
        return found

    def _placed(self, kind: str, piece: str) -> Sequence[Part]:
        return [TextPart(piece, thinking=True)] if kind == "thinking" else self._parsed(piece)

    def _parsed(self, text: str) -> Sequence[Part]:
        if self._parser is not None:
            return self._parser.feed(text)
        return [TextPart(text)] if text else []
