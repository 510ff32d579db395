"""What the Hub's refusals mean.

It answers 401 for a repository that does not exist when nobody is logged in (so as not to
tell which private ones exist), 401 or 403 with the code GatedRepo where terms must be agreed
to first, and 404 with a code that says what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from localllm.errors import (
    AccessDenied,
    InvalidReference,
    LocalLLMError,
    OfflineMode,
    SourceFailed,
    SourceNotFound,
    SourceUnreachable,
)
from localllm.refs import ModelRef
from localllm.sources.retry import TRANSIENT_STATUS, Transient, retry_after_s
from localllm.sources.urls import host_of

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_RESOLVE = re.compile(
    r"(?P<prefix>.*?)/(?P<repo>(?:[^/]+/)?[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)"
)
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def explain(status: int, headers: Mapping[str, str], url: str) -> LocalLLMError | None:
    """The error for a status of the Hub at a resolve address; None where it says nothing more."""
    parts = urlsplit(url)
    match = _RESOLVE.fullmatch(unquote(parts.path))
    if match is None:
        return None  # the CDN
    endpoint = f"{parts.scheme}://{parts.netloc}{match['prefix']}"
    what = f"{match['file']} of hf:{match['repo']}"
    return _named(status, headers, endpoint, match["repo"], what, unquote(match["rev"]))


@contextmanager
def translated(ref: ModelRef, endpoint: str) -> Iterator[None]:
    """Turn huggingface_hub's exceptions for `ref` into this program's, or Transient ones."""
    import httpx2
    from huggingface_hub import errors

    host = host_of(endpoint)
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise OfflineMode(
            f"{ref} needs the network, which is switched off", "unset HF_HUB_OFFLINE"
        ) from None
    except errors.HFValidationError as e:
        reason = str(e).splitlines()[0]
        raise InvalidReference(f"hf:{ref.name} is no Hugging Face repository: {reason}") from None
    except errors.HfHubHTTPError as e:
        raise _of_response(e, ref, endpoint) from None
    except httpx2.TimeoutException:
        raise Transient(SourceUnreachable(f"{host} went silent (time-out)")) from None
    except (httpx2.ConnectError, httpx2.ProxyError) as e:
        reason = str(e) or type(e).__name__
        down = SourceUnreachable(f"{host} cannot be reached: {reason}")
        raise Transient(down, answered=False) from None
    except httpx2.TransportError as e:
        reason = str(e) or type(e).__name__
        raise Transient(SourceUnreachable(f"{host} broke the connection: {reason}")) from None
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as e:
        raise SourceFailed(f"{host} answered what is no model listing: {e!r}") from None


def _of_response(error: HfHubHTTPError, ref: ModelRef, endpoint: str) -> Exception:
    response = error.response
    status, headers = response.status_code, response.headers
    named = _named(status, headers, endpoint, ref.name, f"hf:{ref.name}", ref.revision)
    if named is None:
        named = SourceFailed(f"{host_of(endpoint)} answered with status {status} for {ref}")
    if status in TRANSIENT_STATUS:
        return Transient(named, retry_after_s(headers.get("retry-after")))
    return named


def _named(
    status: int,
    headers: Mapping[str, str],
    endpoint: str,
    repo: str,
    what: str,
    revision: str | None,
) -> LocalLLMError | None:
    code = headers.get("x-error-code", "")
    message = headers.get("x-error-message", "")
    host, page = host_of(endpoint), f"{endpoint}/{repo}"
    if code == "GatedRepo":
        return AccessDenied(
            f"hf:{repo} is gated: its terms must be agreed to before {what} can be read",
            f"agree at {page}, then {_LOG_IN}",
        )
    if code == "RevisionNotFound":
        return SourceNotFound(f"hf:{repo} has no revision {revision!r}", f"see {page}/tree/main")
    if code == "EntryNotFound":
        return SourceNotFound(f"{host} has no {what}", f"see {page}/tree/{revision or 'main'}")
    if "disabled" in message:
        return AccessDenied(f"access to hf:{repo} was switched off by {host}", f"see {page}")
    if status == 401 and "Invalid credentials" in message:
        return AccessDenied(f"{host} does not accept the token", _LOG_IN)
    if code == "RepoNotFound" or status == 404:
        return SourceNotFound(
            f"{host} has no model repository {repo}, or it is private",
            f"check the name; for a private one {_LOG_IN}",
        )
    if status in (401, 403):
        why = f": {message}" if message else ""
        return AccessDenied(f"{host} refuses access to {what}{why}", _LOG_IN)
    return None
