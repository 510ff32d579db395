"""Parts of an answer with the data back in place of placeholders."""

from __future__ import annotations

from localllm.privacy import Masker, Restorer
from localllm.toolcalls import CallArguments, CallEnd, Part, TextPart


class RestoredParts:
    """Of one answer to messages that `masker` masked. Text, thinking and the arguments of calls
    come in pieces, each cut anywhere; what is held back comes before anything of another kind.
    With `json_text` the answer itself is a JSON document, and stays one."""

    def __init__(self, masker: Masker, json_text: bool = False) -> None:
        self._masker, self._json_text = masker, json_text
        self._kind: type[Part] | bool | None = None  # of what is held back; thinking or not
        self._restorer: Restorer | None = None

    def part(self, part: Part) -> list[Part]:
        """Empty where all of it is held back for now."""
        if isinstance(part, TextPart):
            kind: type[Part] | bool = part.thinking
        elif isinstance(part, CallArguments | CallEnd):
            kind = CallArguments
        else:
            kind = type(part)
        found = [] if kind == self._kind else self.rest()
        if isinstance(part, CallEnd):
            found = self.rest()
        if not isinstance(part, TextPart | CallArguments):
            return [*found, part]
        if self._restorer is None:
            self._kind = kind
            is_json = kind is CallArguments or (self._json_text and kind is False)
            self._restorer = self._masker.restorer(json_text=is_json)
        return [*found, *self._made(self._restorer.feed(part.text))]

    def rest(self) -> list[Part]:
        """What is held back."""
        held = [] if self._restorer is None else self._made(self._restorer.finish())
        self._kind = self._restorer = None
        return held

    def _made(self, text: str) -> list[Part]:
        if not text:
            return []
        if isinstance(self._kind, bool):
            return [TextPart(text, self._kind)]
        return [CallArguments(text)]
