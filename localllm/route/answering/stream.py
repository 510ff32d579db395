"""What a member's answer looks like while it comes, and the errors on which another is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from localllm.errors import (
    DamagedFile,
    DoesNotFit,
    EngineError,
    LocalLLMError,
    MissingExtra,
    NotFound,
    SourceFailed,
)
from localllm.generation import Accounting
from localllm.library.answering import NotInTime
from localllm.toolcalls import Part

# Another member may well do what this one could not. Anything else is the request's own fault.
_HANDED_ON = (SourceFailed, EngineError, DoesNotFit, NotFound, DamagedFile, MissingExtra)


class TooSlow(NotInTime):
    """No word came within the time that the member has."""


class NobodyAnswered(NotInTime):
    """The person did not answer in time."""


class SaidNothing(EngineError):
    """The answer ended without a word."""


class OtherModel(SourceFailed):
    """It says that it is another model than the one that was asked for."""


class MemberStream(Protocol):
    """One member's answer. `accounting` is set at its end; `model` is who answers, by the
    member's own word: of an endpoint from its first part on."""

    @property
    def accounting(self) -> Accounting | None: ...

    @property
    def model(self) -> str | None: ...

    def next_part(self) -> Part | None:
        """The next part, None at the end. After Ctrl-C it may be asked on."""

    def cancel(self) -> None: ...


class PartIterator(Iterator[Part]):
    """No generator function: one that Ctrl-C went through would be over, and the account of what
    was said is still to come."""

    def __init__(self, stream: MemberStream) -> None:
        self._stream = stream

    def __next__(self) -> Part:
        part = self._stream.next_part()
        if part is None:
            raise StopIteration
        return part


def hands_on(error: LocalLLMError) -> bool:
    """Whether the next member is asked after this."""
    return isinstance(error, _HANDED_ON)
