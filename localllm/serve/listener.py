"""The socket: bound before anything is loaded, so that a taken port is said at once."""

from __future__ import annotations

import ipaddress
import socket
import sys

from localllm.errors import LocalLLMError, UsageProblem

# Connections that may wait to be taken; two thousand clients may come in one moment.
BACKLOG = 4096
_SPARE_FILES = 256  # what is open beside connections


class PortTaken(LocalLLMError):
    """Another program listens there."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. Names other than localhost are asked of the system,
    and count only if all their addresses are."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(one[4][0])).is_loopback for one in found)


def bind(host: str, port: int) -> socket.socket:
    """A socket that is not listening yet. Raises PortTaken, UsageProblem."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageProblem(
            f"--host {host}: {error.strerror or error}", "--host 127.0.0.1"
        ) from None
    # 127.0.0.1 before ::1 for "localhost": most clients look there first
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    if sys.platform != "win32":  # there it would let two programs have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise PortTaken(f"cannot listen on {host} port {port}: {reason}", "--port 0") from None
    listener.setblocking(False)
    return listener


def allow_files(connections: int) -> None:
    """Raise the limit of open files where it is too low for so many connections; many systems
    start programs with 1024 and let them have more."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
