"""What a context remembers of its sequences: how long they are, cutting, copying, saving.

Three kinds of memory behave differently. Plain attention keeps every token, and any beginning
of a sequence can be used again. Sliding windows leave behind what no later token sees, so a
beginning is usable only while the window at its end is still there. A recurrent state is of one
place only: the end.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Literal

from localllm.engine import native

MemoryKind = Literal["attention", "window", "state"]


class Sequences:
    """The native memory of one context. Calls wait while the context computes.

    Sequences up to `n_seq_max` can be computed; those up to `n_ids`, where cells are one pool,
    can hold copies.
    """

    def __init__(
        self, handle: int, kind: MemoryKind, n_swa: int, unified: bool, n_seq_max: int
    ) -> None:
        self._llama = native.lib()
        self._context = handle
        self._cells: int = self._llama.llama_get_memory(handle) or 0  # 0: embedders have none
        self.lock = threading.RLock()
        self.kind = kind
        self.unified = unified
        self._n_swa = n_swa
        pooled = unified and kind == "attention"
        self.n_ids: int = self._llama.llama_max_parallel_sequences() if pooled else n_seq_max

    @property
    def exists(self) -> bool:
        return bool(self._cells)

    def end(self) -> None:
        """The context is being freed: from here on every sequence is empty."""
        with self.lock:
            self._cells = 0

    def length(self, sequence: int = 0) -> int:
        """Tokens of `sequence` in memory: its last position plus one."""
        with self.lock:
            if not self._cells:
                return 0
            return int(self._llama.llama_memory_seq_pos_max(self._cells, sequence)) + 1

    def clear(self) -> None:
        """Forget every sequence. The buffers keep their bytes: nothing reads them."""
        with self.lock:
            if self._cells:
                self._llama.llama_memory_clear(self._cells, False)

    def remove(self, sequence: int) -> None:
        """Forget one sequence."""
        with self.lock:
            if self._cells:
                self._llama.llama_memory_seq_rm(self._cells, sequence, -1, -1)

    def truncate(self, n_keep: int, sequence: int = 0) -> int:
        """Keep the first `n_keep` tokens of `sequence`; the number really kept is returned.

        Recurrent models cannot go back, and a sliding window may have left behind what the
        next token would have to see: both then keep nothing.
        """
        with self.lock:
            length = self.length(sequence)
            if n_keep >= length:
                return length
            if n_keep > 0 and not self.reaches(n_keep, sequence):
                n_keep = 0
            remove = self._llama.llama_memory_seq_rm
            if not remove(self._cells, sequence, n_keep, -1):
                n_keep = 0
                remove(self._cells, sequence, -1, -1)
            return n_keep

    def reaches(self, n_tokens: int, sequence: int) -> bool:
        """Whether all that the token after the first `n_tokens` would see is in memory.

        For windows the rule of llama.cpp's server: the oldest position held must lie before
        the window.
        """
        with self.lock:
            length = self.length(sequence)
            if n_tokens > length or not self._cells:
                return False
            if self.kind == "state":
                return n_tokens == length
            if self.kind == "attention":
                return True
            oldest = int(self._llama.llama_memory_seq_pos_min(self._cells, sequence))
            return oldest == 0 or oldest < n_tokens - self._n_swa

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        """Make `target`, empty before, hold the first `n_tokens` of `source`; those it then has.

        In a pool of cells nothing is copied, the cells belong to both from then on. Windows and
        states that `reaches` refuses leave `target` empty and return 0. (With plain attention all
        there is can be had; `length` tells less than that behind an image of M-RoPE, all of whose
        cells have the position where it begins.)
        """
        with self.lock:
            refused = self.kind != "attention" and not self.reaches(n_tokens, source)
            if n_tokens <= 0 or refused or not self._cells:
                return 0
            part = n_tokens if self.unified and self.kind != "state" else -1
            self._llama.llama_memory_seq_cp(self._cells, source, target, -1, part)
            return self.truncate(n_tokens, target)

    def graft(self, source: int, target: int, n_tokens: int) -> None:
        """`copy` for a place that `reaches` refuses: `restore` must follow. Only where all
        sequences are `unified`."""
        with self.lock:
            if self._cells:
                self._llama.llama_memory_seq_cp(self._cells, source, target, -1, n_tokens)

    def prune(self, sequence: int, n_tokens: int) -> None:
        """`truncate` for a window that left such a place behind: `restore` must follow."""
        with self.lock:
            if self._cells:
                self._llama.llama_memory_seq_rm(self._cells, sequence, n_tokens, -1)

    # --- to and from main memory ---------------------------------------------------------

    def save(self, sequence: int, *, whole: bool) -> bytes:
        """`sequence` as bytes: all of it, or only what is special to this very place of it, its
        windows or its state. Cells of full attention are not in that: b"" where there is nothing
        of the kind. A GPU's are copied to main memory."""
        llama, flags = self._llama, self._flags(whole)
        with self.lock:
            size = self.saved_size(sequence, whole=whole)
            if not size:
                return b""
            # Bytes without their zeros: what is allocated here is written once, by C.
            make = ctypes.pythonapi.PyBytes_FromStringAndSize
            make.restype, make.argtypes = ctypes.py_object, [ctypes.c_char_p, ctypes.c_ssize_t]
            saved: bytes = make(None, size)
            data = ctypes.cast(ctypes.c_char_p(saved), ctypes.POINTER(ctypes.c_uint8))
            n = llama.llama_state_seq_get_data_ext(self._context, data, size, sequence, flags)
        return saved if n == size else b""

    def saved_size(self, sequence: int, *, whole: bool) -> int:
        """Bytes that `save` would give."""
        with self.lock:
            if not self._cells or (self.kind == "attention" and not whole):
                return 0
            size = self._llama.llama_state_seq_get_size_ext
            return int(size(self._context, sequence, self._flags(whole)))

    def restore(self, sequence: int, saved: bytes, *, whole: bool) -> bool:
        """Put back what `save` gave, of this sequence or another with the same beginning.

        On False (no room) the sequence must be removed.
        """
        # Not a copy: C only reads it.
        data: Any = ctypes.cast(ctypes.c_char_p(saved), ctypes.POINTER(ctypes.c_uint8))
        put = self._llama.llama_state_seq_set_data_ext
        with self.lock:
            if not self._cells:
                return False
            return bool(put(self._context, data, len(saved), sequence, self._flags(whole)))

    def _flags(self, whole: bool) -> int:
        llama = self._llama
        flags = "LLAMA_STATE_SEQ_FLAGS_NONE" if whole else "LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY"
        return int(getattr(llama, flags))
