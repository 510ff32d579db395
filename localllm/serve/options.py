"""What one server is told."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localllm.errors import FileGone, UsageProblem
from localllm.serve.listener import is_loopback
from localllm.serve.resident.catalog import Alias, FarAlias
from localllm.serve.resident.planner import LoadPolicy
from localllm.serve.web.guard import Rules
from localllm.serve.web.limits import Limits

_SHORTEST_KEY = 8


@dataclass(frozen=True)
class ServeOptions:
    """`preload` are loaded before the first request and kept; `manage` allows pull, delete, copy
    and create over the API; `grace_s` is what streams have to end when the server stops."""

    host: str
    port: int
    rules: Rules
    policy: LoadPolicy
    limits: Limits = field(default_factory=Limits)
    aliases: tuple[Alias, ...] = ()
    far: tuple[FarAlias, ...] = ()
    preload: tuple[str, ...] = ()
    only: bool = False
    manage: bool = False
    keep_alive_s: float | None = 300.0
    grace_s: float = 10.0
    log_requests: bool = False


def keys_of(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """All keys that count: each line of `file` is one, # begins a remark.

    Raises UsageProblem for a key too short to be one, FileGone.
    """
    keys = [key.strip() for key in given]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise FileGone(f"{file} cannot be read: {error.strerror}") from None
        keys += [one for line in lines if (one := line.partition("#")[0].strip())]
        if not keys:
            raise UsageProblem(f"{file} holds no key", f"for example {secrets.token_urlsafe(24)}")
    for key in keys:
        if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable():
            raise UsageProblem(
                f"an API key has at least {_SHORTEST_KEY} plain characters",
                f"for example {secrets.token_urlsafe(24)}",
            )
    return tuple(dict.fromkeys(keys))


def check_reach(host: str, keys: Sequence[str], *, open_to_all: bool) -> None:
    """Beyond this machine only with a key. Raises UsageProblem."""
    if keys or open_to_all or is_loopback(host):
        return
    raise UsageProblem(
        f"--host {host} can be reached from other machines, and there is no API key",
        f"--api-key-file FILE (a key: {secrets.token_urlsafe(24)}), or --no-key if you mean it",
    )
