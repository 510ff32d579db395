"""Devices of other machines, by llama.cpp's RPC backend. (rpc_server lends this machine's.)

    rpc.connect(("10.0.0.7:50052",))     # its devices then stand among build.devices()

llama.cpp's client ends the process whenever a worker is not as it should be, and waits without
limit for one that is busy: a worker serves one client at a time, and holds everybody else in its
queue. So each is greeted from here first, with a time-out (`greet`). What is left, a worker that
is lost while a model runs on it, is made one line by `lost_worker` (see native.before_abort).

The protocol has no password and no encryption, and a client can do with the worker's memory as it
likes: that is llama.cpp's design, and nothing here changes it.
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from localllm import config
from localllm.engine import native
from localllm.errors import (
    EngineError,
    LocalLLMError,
    SourceFailed,
    SourceUnreachable,
    UsageProblem,
)

DEFAULT_PORT = 50052
VARIABLE = "LOCALLLM_RPC"  # hands the addresses on to processes that measure and bench
GREET_S = 5.0
_MOST = 16  # GGML_RPC_MAX_SERVERS
_HELLO = 14  # RPC_CMD_HELLO, "must be always 14"
_CAPS_BYTES = 24  # RPC_CONN_CAPS_SIZE
_SETTLES_S = 0.3  # what the system takes to give up the sockets of a process that died
_LOST = re.compile(
    r"Remote RPC server crashed|Failed to connect to|RPC handshake failed|ggml-rpc\.cpp"
)

_lock = threading.Lock()
_names: dict[str, tuple[str, ...]] = {}  # of the devices, by address
_memory: dict[str, tuple[int, int]] = {}  # last known (free, total) bytes, by device
_in_use = 0  # models of this process that are on remote devices now


@dataclass(frozen=True)
class Greeting:
    """What a worker says of itself: the version of its protocol."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def supported() -> bool:
    """Whether this build of llama.cpp has the RPC backend."""
    return bool(native.lib().llama_supports_rpc())


def require() -> None:
    """Raises EngineError with the command that builds llama.cpp with it."""
    if not supported():
        raise EngineError(
            "this build of llama.cpp has no RPC backend",
            "CMAKE_ARGS=-DGGML_RPC=on pip install --force-reinstall --no-cache-dir "
            "--no-binary llama-cpp-python 'llama-cpp-python>=0.3.36,<0.4'",
        )


def parse_address(text: str) -> str:
    """`HOST[:PORT]` as HOST:PORT. Raises UsageProblem; llama.cpp speaks IPv4 only."""
    host, colon, port = text.strip().partition(":")
    port = port if colon else str(DEFAULT_PORT)
    plain = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", host)
    if not plain or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageProblem(
            f"{text!r} is no HOST:PORT of a worker", f"--rpc 10.0.0.7:{DEFAULT_PORT}"
        )
    return f"{host}:{int(port)}"


# --- the client's side ----------------------------------------------------------------------


def connect(addresses: Sequence[str]) -> None:
    """Use the devices of these workers in this process and those that it starts. They are added
    to those known before; an address that is known is not asked again.

    Raises EngineError for a build without RPC, UsageProblem, SourceUnreachable for a worker that
    is down or busy, SourceFailed for one of another version.
    """
    wanted = tuple(dict.fromkeys(map(parse_address, addresses)))
    if not wanted:
        return
    if len(wanted) > _MOST:
        raise UsageProblem(f"{len(wanted)} workers; llama.cpp takes at most {_MOST}")
    with _lock:
        new = [address for address in wanted if address not in _names]
        if new:
            require()
            native.before_abort(lost_worker)
        for address in new:
            _names[address] = _added(address)
        config.hand_on(VARIABLE, ",".join(_names))


def ensure() -> None:
    """The same for those of the setting `rpc` (LOCALLLM_RPC)."""
    addresses = config.load().rpc
    if addresses and any(parse_address(one) not in _names for one in addresses):
        connect(addresses)


def known() -> dict[str, tuple[str, ...]]:
    """Address -> ggml's names of its devices, as far as they were connected to."""
    return dict(_names)


def address_of(device: str) -> str | None:
    """The worker that a device belongs to, None for one of this machine."""
    return next((address for address, names in _names.items() if device in names), None)


def plain_name(buffer: str) -> str:
    """ggml's device name for a buffer type: a worker's buffers are called by the number that the
    device has there and its address, "RPC0[10.0.0.7:50052]", where the device may be RPC1."""
    match = re.fullmatch(r"RPC(\d+)\[(.+)\]", buffer)
    names = _names.get(match[2], ()) if match else ()
    return names[int(match[1])] if match and int(match[1]) < len(names) else buffer


def memory_of(device: str) -> tuple[int, int] | None:
    """What a remote device last said of its memory, (free, total) bytes, where asking it now
    would wait for somebody else; None where it can be asked."""
    address = address_of(device)
    if address is None or _in_use:  # our own connection answers
        return None
    try:
        greet(address, 1.0)
    except LocalLLMError:
        return _memory.get(device, (0, 0))
    return None


def note_memory(device: str, free: int, total: int) -> None:
    """Keep what a remote device said."""
    if address_of(device) is not None:
        _memory[device] = free, total


def engaged() -> bool:
    """Whether a worker that was connected to serves a model now, of this process or of one that
    it started: nobody else can ask it anything then."""
    if not _names:
        return False
    if _in_use:
        return True
    try:
        for address in _names:
            greet(address, 1.0)
    except LocalLLMError:
        return True
    return False


def use(devices: Sequence[str] | None, count: int) -> None:
    """A model on these devices was loaded (+1) or freed (-1)."""
    global _in_use
    if any(address_of(name) for name in devices or ()):
        with _lock:
            _in_use = max(0, _in_use + count)


def greet(address: str, timeout_s: float = GREET_S) -> Greeting:
    """Say hello as a client does, and leave. Raises SourceUnreachable, SourceFailed."""
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((_ipv4(host, address), int(port)), timeout_s) as wire:
            wire.settimeout(timeout_s)
            wire.sendall(struct.pack("<BQ", _HELLO, _CAPS_BYTES) + bytes(_CAPS_BYTES))
            size = struct.unpack("<Q", _exactly(wire, 8))[0]
            if size != 4 + _CAPS_BYTES:
                raise _foreign(address)
            major, minor, patch = _exactly(wire, size)[:3]
    except TimeoutError:
        raise SourceUnreachable(
            f"the worker {address} does not answer within {timeout_s:g} s: it is down, or busy "
            "with another client (it serves one at a time)"
        ) from None
    except (ConnectionError, EOFError) as error:
        if isinstance(error, ConnectionRefusedError):
            raise SourceUnreachable(
                f"no worker listens at {address}", f"localllm worker --port {port} on {host}"
            ) from None
        raise _foreign(address) from None
    except OSError as error:
        raise SourceUnreachable(
            f"the worker {address} cannot be reached: {error.strerror or error}"
        ) from None
    return Greeting(major, minor, patch)


def _added(address: str) -> tuple[str, ...]:
    _check_version(address, greet(address))
    size_t, pointer = ctypes.c_size_t, ctypes.c_void_p
    add = native.ggml("ggml_backend_rpc_add_server", pointer, ctypes.c_char_p)
    registry = add(address.encode())
    if not registry:
        raise SourceFailed(f"the worker {address} offers no device")
    native.ggml("ggml_backend_register", None, pointer)(registry)
    n = native.ggml("ggml_backend_reg_dev_count", size_t, pointer)(registry)
    get = native.ggml("ggml_backend_reg_dev_get", pointer, pointer, size_t)
    name = native.ggml("ggml_backend_dev_name", ctypes.c_char_p, pointer)
    return tuple(name(get(registry, i)).decode() for i in range(n))


def _check_version(address: str, theirs: Greeting) -> None:
    ours = own_version()
    if ours is not None and (theirs.major != ours[0] or theirs.minor > ours[1]):
        raise SourceFailed(
            f"the worker {address} speaks RPC {theirs}, this llama.cpp {ours[0]}.{ours[1]}",
            "install the same localllm and llama-cpp-python on both machines",
        )


def own_version() -> tuple[int, int] | None:
    """(major, minor) of this build's protocol: llama-cpp-python 0.3.36's, as its header has it."""
    return (7, 0)


def _ipv4(host: str, address: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
        return str(found[0][4][0])
    except socket.gaierror:
        raise SourceUnreachable(f"the worker {address}: there is no such host") from None


def _exactly(wire: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = wire.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _foreign(address: str) -> SourceFailed:
    return SourceFailed(
        f"what listens at {address} is no worker of this version of llama.cpp",
        "install the same localllm and llama-cpp-python on both machines",
    )


def lost_worker(text: str) -> SourceFailed | None:
    """The error for what llama.cpp says before it ends the process; None where it is another."""
    if not _names or not _LOST.search(text):
        return None
    time.sleep(_SETTLES_S)
    gone = [address for address in _names if len(_names) == 1 or not _answers(address)]
    which = f"the worker {gone[0]} is lost" if len(gone) == 1 else "a worker is lost"
    return SourceFailed(f"{which}: the model cannot go on without its layers there",
                        "start the worker again, and then this command")  # fmt: skip


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), 1.0):
            return True
    except OSError:
        return False
