"""Parts of an answer with the data back in place of placeholders."""

from __future__ import annotations

from dataclasses import replace

from localllm.privacy import Masker
from localllm.toolcalls import CallArguments, Part, TextPart


class RestoredParts:
    """Of one answer to messages that `masker` masked. Text, thinking and the arguments of calls
    come in pieces of their own, each cut anywhere."""

    def __init__(self, masker: Masker) -> None:
        self._text, self._thinking = masker.restorer(), masker.restorer()
        self._arguments = masker.restorer(json_text=True)

    def part(self, part: Part) -> Part | None:
        """None where all of it is held back for now."""
        if isinstance(part, TextPart):
            text = (self._thinking if part.thinking else self._text).feed(part.text)
            return TextPart(text, part.thinking) if text else None
        if isinstance(part, CallArguments):
            restored = self._arguments.feed(part.text)
            return replace(part, text=restored) if restored else None
        return part

    def rest(self) -> list[Part]:
        """What was held back, at the answer's end."""
        held = ((self._thinking.finish(), True), (self._text.finish(), False))
        return [TextPart(text, thinking) for text, thinking in held if text]
