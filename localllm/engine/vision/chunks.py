"""The images of a conversation as mtmd's chunks: found, marked in the text, cut up."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localllm.engine import native
from localllm.engine.calls import GaveUp, interruptible
from localllm.engine.handle import NativeObject
from localllm.engine.tokenizer import Tokenizer
from localllm.engine.vision import native as vision_native
from localllm.engine.vision.image import MAX_ALL_PIXELS, Picture, PictureCache
from localllm.errors import UsageProblem
from localllm.generation import Message

if TYPE_CHECKING:
    from localllm.engine.vision.vision import Vision

# In a message's text: here stands its next image. Images without one stand before the text.
MARKER = "<__media__>"

_IMAGE = 1  # MTMD_INPUT_CHUNK_TYPE_IMAGE; 0 is text


class Pictures:
    """The images of a conversation, in the order in which its text has their marks."""

    def __init__(self, mark: str, cache: PictureCache) -> None:
        """`mark` is a text that no message holds."""
        self.mark = mark
        self._cache = cache
        self.found: list[Picture] = []
        self._n_pixels = 0

    def take(self, message: Message, number: int) -> Message:
        """`message` for a template: marks in the text, and no images."""
        images = message.extra.get("images")
        if not images:
            rest = {key: value for key, value in message.extra.items() if key != "images"}
            return Message(message.role, message.content, rest)
        names = [f"image {i + 1} of message {number + 1}" for i in range(len(images))]
        for data, name in zip(images, names, strict=True):
            self._add(self._cache.decode(bytes(data), name), name)
        rest = {key: value for key, value in message.extra.items() if key != "images"}
        parts = message.content.split(MARKER)
        n_marked = min(len(parts) - 1, len(images))
        # The first so many markers are places; further ones are a text like any other.
        placed = self.mark.join(parts[: n_marked + 1])
        content = MARKER.join([placed, *parts[n_marked + 1 :]])
        before = self.mark * (len(images) - n_marked)
        return Message(message.role, f"{before}\n{content}" if before else content, rest)

    def _add(self, picture: Picture, name: str) -> None:
        self._n_pixels += picture.width * picture.height
        if self._n_pixels > MAX_ALL_PIXELS:
            raise UsageProblem(
                f"with {name} the images have more than {MAX_ALL_PIXELS:,} pixels together",
                "make them smaller: no model sees so much of them",
            )
        self.found.append(picture)


class Chunks:
    """mtmd's chunks of a prompt; freed with this object."""

    def __init__(self, vision: Vision, parts: list[str], pictures: list[Picture]) -> None:
        self._mtmd = mtmd = vision_native.lib()
        self._native = _NativeChunks(mtmd)
        bitmaps = [_Bitmap(mtmd, picture) for picture in pictures]
        pieces: list[Any] = []
        for i, text in enumerate(parts):
            if text:
                raw = text.encode("utf-8", "replace")
                given = mtmd.mtmd_input_text(raw, len(raw), False, True)
                pieces.append(mtmd.mtmd_input_part(ctypes.pointer(given), None))
            if i < len(bitmaps):
                pieces.append(mtmd.mtmd_input_part(None, bitmaps[i].handle))
        pointer = ctypes.POINTER(mtmd.mtmd_input_part)
        array = (pointer * len(pieces))(*map(ctypes.pointer, pieces))
        handle, into = vision.handle, self._native.handle
        checked(
            f"{vision.path.name} cannot take these images",
            lambda: mtmd.mtmd_tokenize_from_parts(handle, into, array, len(pieces), False),
        )
        count = mtmd.mtmd_input_chunks_size(self._native.handle)
        self.all = [int(mtmd.mtmd_input_chunks_get(self._native.handle, i)) for i in range(count)]
        self.images = {c for c in self.all if mtmd.mtmd_input_chunk_get_type(c) == _IMAGE}

    def missing_bos(self, tokenizer: Tokenizer) -> int | None:
        """BOS, where the vocabulary wants one and the template wrote none."""
        if not tokenizer.adds_bos:
            return None
        first = self.all[0] if self.all else None
        begins = first is not None and first not in self.images and self.text_of(first)[:1]
        return None if begins == [tokenizer.bos] else tokenizer.bos

    def id_of(self, chunk: int) -> bytes:
        return self._mtmd.mtmd_input_chunk_get_id(chunk) or b""

    def text_of(self, chunk: int) -> list[int]:
        n = ctypes.c_size_t(0)
        tokens = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
        return list(tokens[: n.value])


class _NativeChunks(NativeObject):
    kind = "list of chunks"

    def __init__(self, mtmd: Any) -> None:
        super().__init__(mtmd.mtmd_input_chunks_init(), mtmd.mtmd_input_chunks_free)


class _Bitmap(NativeObject):
    kind = "bitmap"

    def __init__(self, mtmd: Any, picture: Picture) -> None:
        pixels = ctypes.cast(ctypes.c_char_p(picture.rgb), ctypes.POINTER(ctypes.c_uint8))
        made = mtmd.mtmd_bitmap_init(picture.width, picture.height, pixels)
        super().__init__(made, mtmd.mtmd_bitmap_free)
        mtmd.mtmd_bitmap_set_id(made, picture.digest.hex().encode())


def checked(what: str, call: Callable[[], int]) -> None:
    """Run what answers 0 when all went well. On a thread that may be lost: sizes that nobody
    thought of end in an assertion, which would end the process."""
    try:
        with native.capture() as log:
            failed = interruptible(call, expendable=True)
    except GaveUp as error:
        raise native.failure(what, error.why) from None
    if failed:
        raise native.failure(what, log)
