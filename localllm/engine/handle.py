"""Ownership of native objects: freed once, in order, and never used after."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import ClassVar

from localllm.closing import Closing
from localllm.errors import EngineError


class NativeObject(Closing):
    """Holds one native pointer; frees it on `close()`, at garbage collection or at exit.

    Objects that point into another (a context into its model) register with `depend`:
    closing the owner closes them first.
    """

    kind: ClassVar[str] = "object"

    def __init__(
        self, handle: int, free: Callable[[int], object], keep: Sequence[object] = ()
    ) -> None:
        """Own `handle`; `keep` is what native code may call or read until it is freed."""
        self._handle: int | None = handle
        self._dependents: weakref.WeakSet[NativeObject] = weakref.WeakSet()
        # At exit finalizers run newest first, so a context goes before its model.
        self._finalizer = weakref.finalize(self, _free, handle, free, keep)

    @property
    def handle(self) -> int:
        """The native pointer. Raises EngineError after `close()`."""
        if self._handle is None:
            raise EngineError(f"this {self.kind} is closed")
        return self._handle

    @property
    def closed(self) -> bool:
        return self._handle is None

    def depend(self, other: NativeObject) -> None:
        """`other` uses this object and must be closed before it."""
        self._dependents.add(other)

    def close(self) -> None:
        """Free the native object, and all that depend on it before. May be called twice."""
        for other in list(self._dependents):
            other.close()
        self._handle = None
        self._finalizer()


def _free(handle: int, free: Callable[[int], object], keep: Sequence[object]) -> None:
    free(handle)
    del keep  # not before the native object is gone
