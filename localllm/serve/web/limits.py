"""How much one client may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    `head_*` bound a request's first line and headers, `body_*` its body; `bodies_bytes` all
    bodies that are being read at one moment. `stall_s` is how long a client may take nothing of
    what is sent to it, `answer_s` how long one request may take in all (None: as long as it
    takes), `idle_s` how long a connection is kept for its next request.
    """

    head_bytes: int = 64 << 10
    head_s: float = 15.0
    body_bytes: int = 32 << 20
    body_s: float = 60.0
    bodies_bytes: int = 256 << 20
    stall_s: float = 60.0
    answer_s: float | None = None
    idle_s: float = 30.0
    ping_s: float = 15.0
    connections: int = 4096
    texts: int = 2048
    images: int = 16  # of one message
    images_in_all: int = 32  # each is pixels in memory before anything is computed
    image_bytes: int = 16 << 20
