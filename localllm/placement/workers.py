"""Workers of other machines, for the commands that place models on their devices."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from localllm.engine import native, rpc
from localllm.errors import LocalLLMError
from localllm.ui import command


def use(addresses: Sequence[str]) -> None:
    """Connect to these workers; from then on `this_machine` has their devices.

    Should one be lost later, llama.cpp ends the process: what went wrong is then still said as
    every error is, one line or the JSON document, with exit code 6. Raises as rpc.connect.
    """
    native.before_abort(last_words=_said)
    rpc.connect(addresses)


def _said(error: LocalLLMError) -> None:
    if command.current is not None:
        command.current.fail(error)
    else:
        print(f"error: {error.message}", file=sys.stderr, flush=True)  # noqa: T201
