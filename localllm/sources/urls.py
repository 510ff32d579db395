"""URLs as a request needs them: encoded, split into origins, with their credentials apart."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from localllm.errors import SourceFailed


@dataclass(frozen=True)
class Origin:
    """Where a request goes; secrets do not leave it."""

    scheme: str
    host: str
    port: int


def host_of(url: str) -> str:
    """Host and port as a person would name them."""
    return urlsplit(url).netloc.rpartition("@")[2] or url


def normal_url(url: str) -> str:
    """`url` with everything percent-encoded that a request line cannot carry.

    What is encoded already stays. Raises SourceFailed where it is no http(s) URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceFailed(f"{url} is no http or https URL")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def origin_of(url: str) -> Origin:
    """Scheme, host and port. Raises SourceFailed for a port that is no number."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise SourceFailed(f"{url} has no legal port") from None
    return Origin(parts.scheme, parts.hostname or "", port or {"https": 443}.get(parts.scheme, 80))


def target_of(url: str) -> str:
    """What the request line names: path and query."""
    parts = urlsplit(url)
    return urlunsplit(("", "", parts.path, parts.query, ""))


def redirected(url: str, location: str) -> str:
    """Where `url` leads by a Location header. Raises SourceFailed on https -> http."""
    # http.client reads headers as Latin-1; some servers write UTF-8 into them.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    target = normal_url(urljoin(url, location))
    if url.startswith("https:") and not target.startswith("https:"):
        raise SourceFailed(f"{host_of(url)} redirects from https to http: refused")
    return target


def credentials(url: str) -> dict[str, str]:
    """Basic authentication for a URL with a user in it, as in https://user:word@host/."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    return {"Authorization": basic_auth(parts.username, parts.password)}


def basic_auth(user: str, password: str | None) -> str:
    """The value of an Authorization header, from the percent-encoded parts of a URL."""
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
