"""What went wrong with a row, in the five kinds that a row's failure has."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from localllm.errors import DoesNotFit, EngineError, LocalLLMError, UsageProblem
from localllm.library.bench.record import Failure, FailureKind

# What ggml's backends, llama.cpp and C++ say when there is no more memory.
_MEMORY = re.compile(
    r"bad_alloc|out of memory|not enough memory|insufficient memory|cannot allocate memory"
    r"|failed to allocate|unable to allocate|alloc\w* failed|OutOf\w*Memory|std::length_error"
    r"|failed to (mmap|reserve)|mmap failed: Cannot",
    re.IGNORECASE,
)
_ASSERTION = re.compile(r"GGML_ASSERT|GGML_ABORT|fatal error|llama\.cpp gave up")
_NO_MEMORY_STATUS = 0xC0000017  # Windows: STATUS_NO_MEMORY


def failure_of(error: BaseException) -> Failure | None:
    """The failure that `error` makes of a row; None for what concerns the whole model or run
    (a damaged file, a priority that the system refuses)."""
    if isinstance(error, MemoryError):
        return Failure("out_of_memory", "no memory was left")
    if isinstance(error, DoesNotFit):
        return Failure("does_not_fit", error.message)
    if isinstance(error, EngineError):
        return Failure(_kind(error.message), error.message)
    if isinstance(error, UsageProblem):
        return Failure("refused", error.message)
    return None


def _kind(text: str) -> FailureKind:
    if _MEMORY.search(text):
        return "out_of_memory"
    return "crashed" if _ASSERTION.search(text) else "refused"


def death(returncode: int, last_words: Sequence[str]) -> Failure:
    """Why a process that measured is no more: `returncode` as subprocess has it, and the last
    lines that it wrote to stderr."""
    telling = [line for line in last_words if _MEMORY.search(line) or _ASSERTION.search(line)]
    said = telling[-1].removeprefix("error: ") if telling else ""
    if _MEMORY.search(said) or returncode & 0xFFFFFFFF == _NO_MEMORY_STATUS:
        return Failure("out_of_memory", said or "no memory was left")
    if returncode == -getattr(signal, "SIGKILL", 9):
        return Failure(
            "out_of_memory", "the system killed it (SIGKILL), as it does when memory runs out"
        )
    if returncode > 0 and last_words:  # it ended by itself and said why
        said = said or last_words[-1]
    return Failure("crashed", f"{said or 'llama.cpp crashed'} ({_cause(returncode)})")


def _cause(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def error_of(failure: Failure, what: str) -> LocalLLMError:
    """The error that says it, with the exit code that it has: 4 for memory, else 1."""
    message = f"{what}: {failure.message}"
    if failure.kind in ("does_not_fit", "out_of_memory"):
        return DoesNotFit(message, "fewer layers, a smaller -ub or context, or localllm fit MODEL")
    if failure.kind == "time_limit":
        return EngineError(message, "a longer --timeout")
    return EngineError(message)
