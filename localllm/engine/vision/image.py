"""Pictures as bytes of a file, to pixels: bounded, turned upright, and refused in one line.

Read by Pillow, not by the reader in llama.cpp's helper: that one knows no WebP and no EXIF, hands
what it cannot read to an ffmpeg on the PATH, and has no limits.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from localllm.errors import MissingExtra, UsageProblem

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_PIXELS = 64_000_000  # 192 MB of RGB; a few times that while it is decoded
MAX_ALL_PIXELS = 4 * MAX_PIXELS  # of one conversation: a small file may hold a large picture
_SMALLER = "make it smaller: no model sees so much of it"
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, eq=False)
class Picture:
    """`rgb` holds width * height pixels of three bytes, row by row from the top left. `digest` is
    the SHA-256 of size and pixels: two files of the same picture are the same."""

    width: int
    height: int
    rgb: bytes
    digest: bytes


def decode_picture(data: bytes, name: str = "the image") -> Picture:
    """A PNG, JPEG, WebP, GIF (its first frame) or BMP file, upright, over white where it is
    transparent.

    Raises UsageProblem, naming `name`, for other formats, damaged or cut off files, and more
    than 64 million pixels or 64 MiB; MissingExtra where Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtra("reading images needs Pillow", "pip install pillow") from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageProblem(f"{name} has {len(data)} bytes; at most {MAX_FILE_BYTES} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the size, which is checked here
            with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
                _check_size(file.width, file.height, name)
                file.load()
                upright: Any = ImageOps.exif_transpose(file) or file
                flat = _rgb(upright)
    except UsageProblem:
        raise
    except Image.DecompressionBombError:
        raise UsageProblem(f"{name} has more than {MAX_PIXELS:,} pixels", _SMALLER) from None
    except MemoryError:
        raise UsageProblem(f"{name} is too large for the memory there is") from None
    # Whatever a decoder says of hostile bytes: Pillow's plugins raise all of these.
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, EOFError, TypeError,
            AttributeError, RuntimeError) as error:  # fmt: skip
        why = " ".join(str(error).split())[:120]
        if "cannot identify" in why:
            why = "it is no PNG, JPEG, WebP, GIF or BMP"
        raise UsageProblem(f"{name} cannot be read: {why}") from None
    rgb = flat.tobytes()
    digest = hashlib.sha256(b"%d %d " % flat.size + rgb).digest()
    return Picture(flat.width, flat.height, rgb, digest)


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise UsageProblem(f"{name} has no pixels")
    if width * height > MAX_PIXELS:
        raise UsageProblem(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,} are read", _SMALLER
        )


def _rgb(image: Any) -> Any:
    """Eight bits a channel, on white."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":  # 16-bit greys: Pillow would clip them
        image = image.convert("I").point(lambda grey: grey / 257).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


class PictureCache:
    """The pictures read last, so that a conversation's next turn does not decode them again."""

    def __init__(self, max_bytes: int = 128 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[bytes, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def decode(self, data: bytes, name: str) -> Picture:
        """As `decode_picture`."""
        key = hashlib.sha256(data).digest()
        with self._lock:
            found = self._held.get(key)
        if found is None:
            found = decode_picture(data, name)
        with self._lock:
            self._held[key] = found
            self._held.move_to_end(key)
            while sum(len(one.rgb) for one in self._held.values()) > self._max_bytes:
                self._held.popitem(last=False)
        return found
