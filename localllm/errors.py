"""Every failure a user can meet: one message, one hint, one exit code.

Raise the class that names what happened. Only `localllm.cli.main` catches the tree and
turns it into a line on stderr (or the `error` member of the JSON document) and an exit
status. A class owns its exit code; nothing else in the program chooses one.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process returns to the shell. Documented in docs/exit-codes.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DOES_NOT_FIT = 4
    GATE_FAILED = 5
    SOURCE_FAILED = 6
    DAMAGED = 7
    INTERRUPTED = 130


class LocalLLMError(Exception):
    """The root. `message` names the thing; `hint` is the next command to run, or None."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The class name in snake_case, as scripts see it: `ModelNotFound` -> `model_not_found`;
        the root itself is `failed`."""
        if type(self) is LocalLLMError:
            return "failed"
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()


# --- 1: the work was tried and failed ---------------------------------------------------


class DiskFull(LocalLLMError):
    """A file system has no room for what was asked."""


class HomeUnwritable(LocalLLMError):
    """LOCALLLM_HOME cannot be created or written (read-only, permissions)."""


class RegistryBroken(LocalLLMError):
    """The index cannot be read; it can be rebuilt from the files."""


class EngineError(LocalLLMError):
    """llama.cpp refused: a model that does not load, a context that cannot be made."""


class TrainingFailed(LocalLLMError):
    """Tuning went wrong: a loss that is no number, an adapter that does not do what was learned."""


class MissingExtra(LocalLLMError):
    """An optional dependency is not installed; the hint is the pip command."""


# --- 2: the command line, a reference or a setting is not of the right form -------------


class UsageProblem(LocalLLMError):
    """Options that are each legal and together make no sense, or a value out of range."""

    exit_code = ExitCode.USAGE


class InvalidReference(UsageProblem):
    """Text that is no model reference."""


class InvalidConfig(UsageProblem):
    """config.toml or an environment variable holds a value that cannot be used."""


class AmbiguousModel(UsageProblem):
    """A short name that several models answer to."""


# --- 3: not found ------------------------------------------------------------------------


class NotFound(LocalLLMError):
    exit_code = ExitCode.NOT_FOUND


class ModelNotFound(NotFound):
    """No model of the registry, and no file, has this name."""


class FileGone(NotFound):
    """A file that should be there is not: the registry names it, the disk does not have it."""


class SourceNotFound(NotFound):
    """The source answered: no such repository, revision, tag, distribution or file."""


# --- 4: does not fit ---------------------------------------------------------------------


class DoesNotFit(LocalLLMError):
    """The model needs more memory than there is. The hint says what would fit."""

    exit_code = ExitCode.DOES_NOT_FIT


class GpuRequired(DoesNotFit):
    """`--require-gpu`, and part of a model would run on the CPU; or a device that is not there."""


# --- 5: a gate ---------------------------------------------------------------------------


class GateFailed(LocalLLMError):
    """A claim was checked and does not hold (regression, quality, verification)."""

    exit_code = ExitCode.GATE_FAILED


# --- 6: a remote source ------------------------------------------------------------------


class SourceFailed(LocalLLMError):
    """A remote source could not be reached or answered with an error."""

    exit_code = ExitCode.SOURCE_FAILED


class SourceUnreachable(SourceFailed):
    """No connection: name resolution, refusal, time-out, TLS."""


class AccessDenied(SourceFailed):
    """The source wants a token, or the token may not read this (gated, private)."""


class OfflineMode(SourceFailed):
    """The network is switched off by a setting (HF_HUB_OFFLINE)."""


# --- 7: damaged content ------------------------------------------------------------------


class DamagedFile(LocalLLMError):
    """A file whose bytes are not what their format or digest says."""

    exit_code = ExitCode.DAMAGED


class ChecksumMismatch(DamagedFile):
    """The bytes that arrived do not have the published digest."""


# --- 130 ---------------------------------------------------------------------------------


class Interrupted(LocalLLMError):
    """Ctrl-C. Finished work is kept; the hint says how to go on."""

    exit_code = ExitCode.INTERRUPTED
