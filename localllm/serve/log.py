"""One JSON line a request, on stderr, where it is asked for. Never a prompt, an answer or a key."""

from __future__ import annotations

import json
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

from localllm.serve.web.exchange import Exchange


class Log:
    """`requests` false: only what went wrong in the server itself. `verbose`: tracebacks too."""

    def __init__(self, *, requests: bool, verbose: bool) -> None:
        self._requests = requests
        self._verbose = verbose

    def finished(self, exchange: Exchange, took_s: float, bug: BaseException | None) -> None:
        if bug is not None:
            self.line("error", path=exchange.path, error=f"{type(bug).__name__}: {bug}")
            if self._verbose:
                traceback.print_exception(bug)
        if not self._requests:
            return
        usage, client = exchange.usage, exchange.scope.get("client")
        more: dict[str, Any] = {
            "method": exchange.scope["method"],
            "path": exchange.path,
            "status": exchange.status,
            "duration_s": round(took_s, 4),
            "sent_bytes": exchange.n_sent,
            "client": client[0] if client else None,
            "request_id": exchange.id,
        }
        if usage.model:
            more |= {
                "model": usage.model,
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
                "first_token_s": usage.first_token_s and round(usage.first_token_s, 4),
                "finish": usage.finish,
            }
        self.line("request", **more)

    @staticmethod
    def line(event: str, **what: Any) -> None:
        text = json.dumps({"time": round(time.time(), 3), "event": event, **what})
        if sys.stderr is not None:
            with suppress(OSError, ValueError):  # who read it is gone; requests are not
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
