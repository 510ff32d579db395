"""What went wrong, as a status and in each API's own shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from localllm.endpoints.failures import ContextFull, EndpointBusy, EndpointSilent, RequestRefused
from localllm.engine.scheduler import Busy, DeadlinePassed, Stopped
from localllm.errors import LocalLLMError, NotFound, SourceFailed, UsageProblem
from localllm.library.answering import CannotDo, NotInTime, OutOfContext
from localllm.serve.answering.ask import PromptTooLong

_PROMPTS = {"/v1/completions": "prompt", "/v1/responses": "input"}


class RequestProblem(UsageProblem):
    """A request that cannot be answered as it stands. `param` names the field that is wrong."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Failure:
    """A refusal as it goes out. `headers` stand beside the body."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: LocalLLMError) -> Failure:
        if isinstance(error, RequestProblem):
            return cls(error.status, error.message, error.param, error.code, error.headers)
        if isinstance(error, Busy):
            wait = str(max(1, round(error.retry_after_s)))
            return cls(503, error.message, code="overloaded", headers={"Retry-After": wait})
        if isinstance(error, Stopped):
            return cls(503, error.message, code="unavailable", headers={"Retry-After": "1"})
        if isinstance(error, DeadlinePassed):
            return cls(504, error.message, code="timeout")
        if isinstance(error, NotInTime):
            return cls(504, error.message, code="timeout")
        if isinstance(error, CannotDo):  # no client should try that again
            return cls(400, error.message, code=error.kind)
        if isinstance(error, PromptTooLong | OutOfContext):
            return cls(400, error.message, "messages", "context_length_exceeded")
        if isinstance(error, SourceFailed):
            return _of_elsewhere(error)
        if isinstance(error, NotFound):
            return cls(404, error.message, "model", "model_not_found")
        if isinstance(error, UsageProblem):
            return cls(400, error.message)
        hint = f" ({error.hint})" if error.hint else ""
        return cls(500, error.message + hint, code=error.kind)

    def body(self, path: str) -> dict[str, Any]:
        """In the shape of the API that `path` belongs to."""
        if path.startswith("/api/"):
            return self.ollama()
        if self.param == "messages":  # where the prompt stands
            return replace(self, param=_PROMPTS.get(path, "messages")).openai()
        return self.openai()

    def openai(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": _kind(self.status),
                "param": self.param,
                "code": self.code,
            }
        }

    def ollama(self) -> dict[str, Any]:
        return {"error": self.message}


def _of_elsewhere(error: SourceFailed) -> Failure:
    """What servers behind this one did wrong. A refusal of the request is the client's to mend."""
    if isinstance(error, EndpointBusy):
        wait = str(max(1, round(error.retry_after_s or 1)))
        return Failure(503, error.message, code="overloaded", headers={"Retry-After": wait})
    if isinstance(error, EndpointSilent):
        return Failure(504, error.message, code="timeout")
    if isinstance(error, ContextFull):
        return Failure(400, error.message, "messages", "context_length_exceeded")
    if isinstance(error, RequestRefused) and error.status in (400, 413, 415, 422):
        return Failure(400, error.message, code=error.code)
    return Failure(502, error.message, code=error.kind)


def phrase(status: int) -> str:
    """`Not Found` for 404."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _kind(status: int) -> str:
    """OpenAI's word for it."""
    named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")
