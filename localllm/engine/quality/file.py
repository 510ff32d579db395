"""A base model's figures in a file, for comparing many candidates with it.

Nothing that counts is left out or rounded (see `rows.Reference`): what is compared with
the file is what would be compared with the model, to the last bit. About 35 MB for 1,000 tokens
of text at a vocabulary of 262k, where llama-perplexity's file takes 260 MB.

Layout, little-endian: "LLMBASE1", the length of a JSON object (u64) and the object, the text's
tokens (i32); then for each chunk the numbers of rows and of kept tokens (u64) and the arrays.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from localllm.engine.quality.rows import ARRAYS, Reference
from localllm.errors import DamagedFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"LLMBASE1"
_TYPES = {
    "offsets": "<i8", "ids": "<i4", "logits": "<f4", "normalizer": "<f8", "nll": "<f8",
    "floored_nll": "<f8", "top": "<i4",
}  # fmt: skip
_LONGEST_HEADER = 1 << 20


class ReferenceWriter:
    """Writes chunk after chunk to `PATH.part`; `finish` gives the file its name. Left by an
    exception, the part is removed."""

    def __init__(self, path: Path, about: Mapping[str, Any], tokens: Sequence[int]) -> None:
        """`about` says what the figures are of: JSON values."""
        import numpy as np

        self.path = path
        self._part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two may write one file
        self._file = self._part.open("wb")
        header = json.dumps({**about, "n_text_tokens": len(tokens)}).encode()
        self._write(_MAGIC + np.array([len(header)], "<u8").tobytes() + header)
        self._write(np.array(tokens, "<i4").tobytes())

    def add(self, references: Sequence[Reference]) -> None:
        import numpy as np

        for one in references:
            self._write(np.array([len(one), len(one.ids)], "<u8").tobytes())
            for name in ARRAYS:
                array = getattr(one, name).astype(_TYPES[name], copy=False)
                self._write(np.ascontiguousarray(array).data)

    def finish(self) -> None:
        self._file.close()
        self._part.replace(self.path)

    def _write(self, data: bytes | memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:  # Python does not say which file a disk had no room for
            error.filename = str(self.path)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._file.closed:
            with contextlib.suppress(OSError):  # a full disk, which is known already
                self._file.close()
            self._part.unlink(missing_ok=True)


class ReferenceFile:
    """A file of references, read chunk by chunk. Raises DamagedFile for what is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            header = self._header(file)
            self.tokens = tuple(int(t) for t in self._array(file, "<i4", header["n_text_tokens"]))
            self._begin = file.tell()
        self.about: Mapping[str, Any] = header

    def references(self, n_vocab: int) -> Iterator[Reference]:
        """Each chunk's reference in turn."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            file.seek(self._begin)
            while file.tell() < size:
                yield self._reference(file, n_vocab)

    def _reference(self, file: BinaryIO, n_vocab: int) -> Reference:
        import numpy as np

        n_rows, n_kept = (int(n) for n in self._array(file, "<u8", 2))
        lengths = {"offsets": n_rows + 1, "ids": n_kept, "logits": n_kept}
        arrays = {
            name: self._array(file, kind, lengths.get(name, n_rows))
            for name, kind in _TYPES.items()
        }
        offsets, ids, top = arrays["offsets"], arrays["ids"], arrays["top"]
        steps = bool((np.diff(offsets) >= 0).all()) and (offsets[0], offsets[-1]) == (0, n_kept)
        inside = all(((a >= 0) & (a < n_vocab)).all() for a in (ids, top))
        if not steps or not inside:
            raise self._damaged("holds numbers that make no sense")
        return Reference(n_vocab, *(arrays[name] for name in ARRAYS))

    def _header(self, file: BinaryIO) -> dict[str, Any]:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise self._damaged("is no file of base figures")
        length = int(self._array(file, "<u8", 1)[0])
        try:
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
            if isinstance(header["n_text_tokens"], int) and header["n_text_tokens"] >= 0:
                return dict(header)
        except (ValueError, KeyError, TypeError):
            pass
        raise self._damaged("has a broken header")

    def _array(self, file: BinaryIO, kind: str, n: int) -> NDArray[Any]:
        import numpy as np

        size = n * np.dtype(kind).itemsize
        left = self.path.stat().st_size - file.tell()
        if size > left:
            raise self._damaged("is cut off")
        return np.frombuffer(file.read(size), np.dtype(kind))

    def _damaged(self, what: str) -> DamagedFile:
        return DamagedFile(f"{self.path} {what}", "remove it, and it is made again")
