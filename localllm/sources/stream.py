"""One connection of a download: claims a range, brings it, writes it, claims the next."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localllm.errors import ChecksumMismatch, LocalLLMError, SourceFailed
from localllm.sources.connect import SECRET_HEADERS, Explain, Reply, Session
from localllm.sources.ledger import FOREVER, Claim, Ledger, Tuning
from localllm.sources.retry import Patience, Transient
from localllm.sources.urls import host_of, origin_of
from localllm.sources.wire import MACHINE, Wires

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class StartOver(Exception):
    """What is there cannot be gone on with. `note` says why."""

    def __init__(self, note: str) -> None:
        super().__init__(note)
        self.note = note


@dataclass
class Target:
    """What the connections of one download share beside the ledger."""

    url: str
    partial: Path
    headers: Mapping[str, str]
    expected_bytes: int | None
    sha256: str | None
    patience: Patience
    tuning: Tuning
    explain: Explain | None
    wires: Wires = MACHINE
    # Where the URL led: a signed address that is good for the next ranges too, for a while
    resolved: str | None = None
    ranges: bool = False  # the server has shown that it serves them
    answered: bool = False


class Stream(threading.Thread):
    """Brings ranges until all is done.

    The leader retries with patience and raises what cannot be mended through the ledger. Any
    other is an optimisation: at its first trouble it gives its range back and ends.
    """

    def __init__(self, target: Target, ledger: Ledger, leader: bool) -> None:
        super().__init__(name="download", daemon=True)
        self.gave_up = False
        self._target = target
        self._ledger = ledger
        self._leader = leader
        self._session = Session(target.patience, target.explain, target.wires)
        self._wake = threading.Event()

    def run(self) -> None:
        try:
            with self._session, self._target.partial.open("r+b", buffering=0) as file:
                self._work(file)
        except OSError as e:
            self._ledger.fail(self._ledger.disk_problem(e))
        except BaseException as e:  # noqa: BLE001  raised in the thread that waits
            self._ledger.fail(e)

    def abort(self) -> None:
        """Wake it from whatever it waits for; it ends."""
        self._wake.set()
        self._session.abort()

    def _work(self, file: BinaryIO) -> None:
        failures = 0
        while (claim := self._ledger.claim(wait=self._leader)) is not None:
            before = claim.at
            try:
                self._bring(claim, file)
            except (Transient, LocalLLMError, StartOver) as problem:
                if self._ledger.stopped:
                    return
                if not self._leader:
                    self.gave_up = True
                    return
                failures = 1 if claim.at > before else failures + 1
                self._wait(problem, failures)
            finally:
                self._ledger.release(claim)

    def _wait(self, problem: Transient | LocalLLMError | StartOver, failures: int) -> None:
        """Be patient with a transient problem; raise any other, and this one at the end."""
        if not isinstance(problem, Transient):
            raise problem
        patience = self._target.patience
        if patience.exhausted(failures, problem, self._target.answered):
            raise problem.error from problem
        self._wake.wait(patience.wait_s(failures, problem.retry_after_s))

    def _bring(self, claim: Claim, file: BinaryIO) -> None:
        reply = self._open(claim)
        self._target.answered = True
        if not self._fits(reply, claim):
            return
        file.seek(claim.at)
        buffer = memoryview(bytearray(self._target.tuning.block_bytes))
        while claim.at < claim.end:
            count = reply.read_into(buffer[: min(len(buffer), claim.end - claim.at)])
            if count == 0:
                self._ended(claim)
                return
            _write(file, buffer[:count])
            if not self._ledger.wrote(claim, count):
                return

    def _ended(self, claim: Claim) -> None:
        """The body is over: of a file of unknown size this is how its size is learned."""
        if self._ledger.size_bytes is None:
            self._ledger.learn(None, claim.at)
        elif claim.at < claim.end:
            raise Transient(SourceFailed(f"{host_of(self._target.url)} sent less than it has"))

    def _open(self, claim: Claim) -> Reply:
        last = "" if claim.end == FOREVER else str(claim.end - 1)
        headers = {**self._target.headers, "Range": f"bytes={claim.at}-{last}"}
        accept = frozenset((416,))
        url, resolved = self._target.url, self._target.resolved
        if resolved is not None:
            if origin_of(resolved) != origin_of(url):
                bare = {n: v for n, v in headers.items() if n.lower() not in SECRET_HEADERS}
            else:
                bare = headers
            try:
                return self._session.request(resolved, bare, accept=accept)
            except LocalLLMError:
                self._target.resolved = None  # it has expired, most likely: ask again
        reply = self._session.request(url, headers, accept=accept)
        if reply.status == 206 and reply.url != url:
            self._target.resolved = reply.url
        return reply

    def _fits(self, reply: Reply, claim: Claim) -> bool:
        """Whether this answer brings what was asked for; False where nothing is left to bring.

        Raises StartOver where it belongs to another content than what is there already.
        """
        encoding = reply.headers.get("content-encoding", "identity")
        if encoding not in ("identity", ""):
            raise SourceFailed(f"{host_of(reply.url)} sends the file packed ({encoding}) only")
        etag = reply.headers.get("etag")
        start, total = _content_range(reply)
        if reply.status == 200:
            start, total = 0, reply.length
        self._same_content(etag, total)
        if reply.status == 416:
            return self._nothing_left(claim, total)
        if reply.status == 200 and claim.at > 0:
            raise StartOver("the server cannot resume it")
        if start != claim.at:
            raise Transient(SourceFailed(f"{host_of(reply.url)} sent another range than asked"))
        self._target.ranges = reply.status == 206
        self._ledger.learn(etag, total)
        if reply.status == 200:
            self._ledger.whole(claim)
        return True

    def _same_content(self, etag: str | None, total: int | None) -> None:
        expected = self._target.expected_bytes
        if expected is not None and total is not None and total != expected:
            raise ChecksumMismatch(
                f"{self._target.url} has {total} bytes, its source published {expected}"
            )
        known = self._ledger.identity
        if known.size_bytes is not None and total is not None and total != known.size_bytes:
            raise StartOver("its size changed at its source")
        if self._target.sha256 is None and known.etag and etag and etag != known.etag:
            raise StartOver("it changed at its source")

    def _nothing_left(self, claim: Claim, total: int | None) -> bool:
        """416: there is no byte at `claim.at`. Right only where the file ends just there."""
        if total is None or total != claim.at:
            raise StartOver("what was there is longer than the file")
        self._ledger.learn(None, total)
        return False


def _write(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _content_range(reply: Reply) -> tuple[int | None, int | None]:
    """First byte and total size by the Content-Range header, None where it does not say."""
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", "").strip())
    if match is None:
        return None, None
    start, total = match.groups()
    return int(start) if start else None, int(total) if total != "*" else None
