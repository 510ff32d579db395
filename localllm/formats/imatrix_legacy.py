"""llama.cpp's older importance matrices (.dat): means and calls, one tensor after the other."""

from __future__ import annotations

import struct

from localllm.errors import DamagedFile
from localllm.formats.imatrix import MAKE_AGAIN, Entry, Imatrix

_MOST_VALUES = 1 << 30  # in one entry; more is damage


def read_legacy(data: bytes, name: str, chunk_size: int) -> Imatrix:
    """Of `data`, which is called `name` in errors. Raises DamagedFile."""
    import numpy as np

    reader = _Legacy(data, name)
    n_entries = reader.number()
    if not 0 < n_entries < 1 << 20:
        raise DamagedFile(f"{name} is no importance matrix", MAKE_AGAIN)
    entries = {}
    for _ in range(n_entries):
        key = reader.take(reader.length()).split(b"\0", 1)[0].decode("utf-8", "replace")
        calls, n_values = reader.number(), reader.length()
        means = np.frombuffer(reader.take(4 * n_values), "<f4")
        if not n_values or not np.isfinite(means).all():
            raise DamagedFile(f"{name}: {key} holds numbers that are none", MAKE_AGAIN)
        # Without calls the numbers are means already: llama-quantize takes them so.
        tokens = max(calls, 1) * chunk_size
        entries[key] = Entry(means * np.float32(chunk_size), np.array([tokens], np.int64))
    chunks = 0 if reader.ended else reader.number()
    dataset = b"" if reader.ended else reader.take(reader.length())
    texts = (dataset.decode("utf-8", "replace"),) if dataset else ()
    return Imatrix(entries, texts, chunks, 0, {}, legacy=True)


class _Legacy:
    """Little-endian numbers and texts, one after another."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self._at = data, name, 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise DamagedFile(f"{self._name} is no importance matrix, or not whole", MAKE_AGAIN)
        self._at += size
        return piece

    def number(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def length(self) -> int:
        size = self.number()
        if not 0 <= size < _MOST_VALUES:
            raise DamagedFile(f"{self._name} is no importance matrix", MAKE_AGAIN)
        return size
