"""New connections: straight or through the machine's proxy, plain or with TLS.

Proxies come from where Python's own `urllib` finds them (environment, system settings on
macOS and Windows), certificates from httpx2's context, which huggingface_hub uses too.
"""

from __future__ import annotations

import http.client
import ssl
from functools import cache
from urllib.parse import urlsplit

from localllm.errors import SourceUnreachable
from localllm.sources.urls import Origin, basic_auth, host_of


def proxy_for(origin: Origin) -> str | None:
    """The URL of the proxy that requests to `origin` go through, None for straight ones."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(origin.host) or proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_credentials(proxy: str) -> dict[str, str]:
    """The header that a proxy with a user in its URL wants."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    return {"Proxy-Authorization": basic_auth(parts.username, parts.password)}


def new_connection(
    origin: Origin, proxy: str | None, connect_s: float
) -> http.client.HTTPConnection:
    """A connection not yet opened. Raises SourceUnreachable for a proxy of another kind."""
    host, port = origin.host, origin.port
    if proxy is not None:
        via = urlsplit(proxy)
        if via.scheme != "http" or not via.hostname:
            raise SourceUnreachable(
                f"{host}: the proxy {via.scheme}://{host_of(proxy)} cannot be used",
                "name an http:// proxy in HTTPS_PROXY and HTTP_PROXY",
            )
        host, port = via.hostname, via.port or 80
    if origin.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=connect_s)
    secure = http.client.HTTPSConnection(host, port, timeout=connect_s, context=tls())
    if proxy is not None:
        secure.set_tunnel(origin.host, origin.port, headers=proxy_credentials(proxy))
    return secure


@cache
def tls() -> ssl.SSLContext:
    """How certificates are checked, made once: reading the system's takes a while."""
    import httpx2

    return httpx2.create_ssl_context()
