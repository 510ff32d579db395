"""The base's figures in a file between the base's pass and the candidates'."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from localllm.errors import FileGone, UsageProblem
from localllm.library.quality.record import Identity, Settings
from localllm.library.quality.text import JudgedBy
from localllm.library.quality.vocabulary import Vocabulary
from localllm.registry import Registry

if TYPE_CHECKING:
    from localllm.engine.quality.chunks import Chunk
    from localllm.engine.quality.file import ReferenceFile, ReferenceWriter
    from localllm.engine.quality.rows import Reference

# What a file may differ in: it may hold more chunks than are asked for, and the same base may
# have another name.
_LIMIT = "limit"
_FREE = (_LIMIT, "base")
_SAID = {
    "base_sha256": "another base model",
    "vocabulary_sha256": "another vocabulary",
    "text_sha256": "another text",
    "build_commit": "another build of llama.cpp",
}


def about_base(
    base: Identity | None, text: JudgedBy, settings: Settings, vocabulary: Vocabulary
) -> dict[str, Any]:
    """What tells whether a file's figures are the ones that are wanted."""
    from localllm.engine.build import build_info

    return {
        "base": base.name if base else None,
        "base_sha256": base.sha256 if base else None,
        "text_sha256": text.sha256,
        "vocabulary_sha256": vocabulary.digest,
        "build_commit": build_info().commit,
        **asdict(settings),
    }


class BaseFile:
    """`--base-cache FILE`, or a file of this run's own that is removed after it."""

    def __init__(
        self, given: Path | None, about: Mapping[str, Any], n_vocab: int, registry: Registry
    ) -> None:
        """`given` None: a file below the home, made when it is first written."""
        if given is not None and not given.absolute().parent.is_dir():
            raise FileGone(f"there is no folder {given.absolute().parent}")
        self.given, self.about, self.n_vocab, self.registry = given, about, n_vocab, registry
        self._file: ReferenceFile | None = None
        self._own: Path | None = None
        self._lock = ExitStack()

    @property
    def exists(self) -> bool:
        return self.given is not None and self.given.exists()

    @property
    def path(self) -> Path:
        if self.given is not None:
            return self.given
        if self._own is None:
            key = f"quality {os.getpid()}"
            self._own = self.registry.partial(key, "quality-base")
            self._lock.enter_context(self.registry.lock(key))
        return self._own

    def check(self) -> None:
        """Raise UsageProblem where the file's figures are of something else."""
        found, wanted = self._read().about, self.about
        differing = [k for k in wanted if k not in _FREE and found.get(k) != wanted[k]]
        if differing:
            key = differing[0]
            what = _SAID.get(key, f"{key} {found.get(key)}")
            raise UsageProblem(
                f"{self.path} holds figures of {what}, not of {self.about['base']} as asked",
                "name another --base-cache, or remove it to make it anew",
            )
        held, limit = found.get("n_chunks"), wanted[_LIMIT]
        if found.get(_LIMIT) is not None and (limit is None or limit > int(held or 0)):
            raise UsageProblem(
                f"{self.path} holds {held} chunks only",
                f"--chunks {held}, or remove it to make it anew",
            )

    def writer(self, tokens: Sequence[int], bos: int | None, n_chunks: int) -> ReferenceWriter:
        """For the figures of the first `n_chunks` chunks of `tokens`."""
        from localllm.engine.quality.file import ReferenceWriter

        about = {**self.about, "n_chunks": n_chunks, "bos": bos}
        return ReferenceWriter(self.path, about, tokens)

    def chunks(self, settings: Settings) -> tuple[Chunk, ...]:
        """The chunks that are asked for, from the text's tokens in the file."""
        from localllm.engine.quality.chunks import chunks_of

        file = self._read()
        return chunks_of(file.tokens, settings.n_ctx, file.about.get("bos"), limit=settings.limit)

    @property
    def n_tokens(self) -> int:
        return len(self._read().tokens)

    def references(self) -> Iterator[Reference]:
        return self._read().references(self.n_vocab)

    def _read(self) -> ReferenceFile:
        from localllm.engine.quality.file import ReferenceFile

        if self._file is None:
            self._file = ReferenceFile(self.path)
        return self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._own is not None:
            self._own.unlink(missing_ok=True)
        self._lock.close()
