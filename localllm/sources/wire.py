"""New connections: straight or through the machine's proxy, plain or with TLS.

Proxies come from where Python's own `urllib` finds them (environment, system settings on
macOS and Windows), certificates from httpx2's context, which huggingface_hub uses too.
"""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from localllm.errors import SourceUnreachable
from localllm.sources.urls import Origin, basic_auth, host_of


@dataclass(frozen=True)
class Wires:
    """How a source's connections are made where its own settings say so (pip's do).

    `proxy` is for every host; `ca` is a PEM file or folder of trusted certificates,
    `client_cert` a PEM file with a key; the certificates of `trusted_hosts` (host or
    host:port) are not checked. What is None is as the machine has it.
    """

    proxy: str | None = None
    ca: Path | None = None
    client_cert: Path | None = None
    trusted_hosts: tuple[str, ...] = ()

    def proxy_for(self, origin: Origin) -> str | None:
        """The URL of the proxy for `origin`, None for a straight connection."""
        return self.proxy or proxy_for(origin)

    def tls_for(self, origin: Origin) -> ssl.SSLContext:
        """How certificates are checked. Raises SourceUnreachable for files that are none."""
        places = (origin.host, f"{origin.host}:{origin.port}")
        checked = not any(host.strip("[]").lower() in places for host in self.trusted_hosts)
        if checked and self.ca is None and self.client_cert is None:
            return tls()
        return _own_tls(self.ca, self.client_cert, checked)


MACHINE = Wires()


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
    origin: Origin, proxy: str | None, connect_s: float, wires: Wires = MACHINE
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
    secure = http.client.HTTPSConnection(
        host, port, timeout=connect_s, context=wires.tls_for(origin)
    )
    if proxy is not None:
        secure.set_tunnel(origin.host, origin.port, headers=proxy_credentials(proxy))
    return secure


@cache
def tls() -> ssl.SSLContext:
    """How certificates are checked, made once: reading the system's takes a while."""
    import httpx2

    return httpx2.create_ssl_context()


@cache
def _own_tls(ca: Path | None, client_cert: Path | None, checked: bool) -> ssl.SSLContext:
    what = ca or client_cert
    try:
        if ca is None:
            context = ssl.create_default_context()
        elif ca.is_dir():
            context = ssl.create_default_context(capath=str(ca))
        else:
            context = ssl.create_default_context(cafile=str(ca))
        what = client_cert
        if client_cert is not None:
            context.load_cert_chain(client_cert)
    except OSError as e:  # ssl.SSLError is one
        raise SourceUnreachable(f"the certificates in {what} cannot be read: {e}") from None
    if not checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
