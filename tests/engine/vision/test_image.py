"""Picture files: every format, upright, bounded, and hostile ones refused in one line."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from localllm.engine.vision import image as vision_image
from localllm.engine.vision.image import Picture, PictureCache, decode_picture
from localllm.errors import UsageProblem
from tests.support.tiny_mmproj import picture, pixels

SIZE = (12, 8)


def array(found: Picture) -> np.ndarray:
    return np.frombuffer(found.rgb, dtype=np.uint8).reshape(found.height, found.width, 3)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("PNG", {"interlace": 1})],
)
def test_lossless_formats_give_the_pixels(form: str, options: dict[str, object]) -> None:
    found = decode_picture(picture(form, size=SIZE, seed=3, **options))
    assert (found.width, found.height) == SIZE
    np.testing.assert_array_equal(array(found), pixels(SIZE, 3))
    assert found.digest == decode_picture(picture("PNG", size=SIZE, seed=3)).digest
    assert found.digest != decode_picture(picture("PNG", size=SIZE, seed=4)).digest


def test_jpeg_and_gif_are_near_enough() -> None:
    smooth = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    for form in ("JPEG", "GIF"):
        found = decode_picture(saved(smooth, form))
        assert np.abs(array(found).astype(int) - np.asarray(smooth).astype(int)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation: int) -> None:
    """The camera's note says how to turn the stored pixels (EXIF 2.3, tag 0x0112)."""
    stored = pixels(SIZE, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = array(decode_picture(saved(Image.fromarray(stored), "PNG", exif=exif)))
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    np.testing.assert_array_equal(found, shown)


def test_transparency_is_white() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 2), (10, 20, 30, 255))
    image.putpixel((2, 2), (0, 0, 0, 128))
    found = array(decode_picture(saved(image)))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[2, 1].tolist() == [10, 20, 30]
    assert abs(int(found[2, 2, 0]) - 127) <= 1
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((3, 3), 1)
    found = array(decode_picture(saved(palette, "GIF", transparency=0)))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[3, 3].tolist() == [255, 0, 0]


def test_deep_greys_keep_their_shades() -> None:
    deep = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    found = array(decode_picture(saved(Image.fromarray(deep))))
    np.testing.assert_allclose(found[..., 0], deep / 257, atol=1)


def test_only_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for form in ("GIF", "WEBP"):
        raw = saved(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
        assert array(decode_picture(raw))[0, 0].tolist() == [255, 0, 0] or form == "WEBP"


def test_a_picture_is_decoded_once_while_there_is_room() -> None:
    n_bytes = 3 * SIZE[0] * SIZE[1]
    cache = PictureCache(max_bytes=2 * n_bytes)
    files = [picture(size=SIZE, seed=i) for i in range(3)]
    first = [cache.decode(file, "x") for file in files]
    assert cache.decode(files[1], "x") is first[1]
    assert cache.decode(files[2], "x") is first[2]
    again = cache.decode(files[0], "x")  # was let go
    assert again is not first[0]
    assert again.digest == first[0].digest
    with pytest.raises(UsageProblem, match=r"^photo cannot"):
        cache.decode(b"nothing", "photo")


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that says it is enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


def test_bombs_are_refused_before_they_go_off() -> None:
    with pytest.raises(UsageProblem, match=r"photo.png has more than 64,000,000 pixels") as caught:
        decode_picture(png_claiming(100_000, 100_000), "photo.png")
    assert caught.value.hint is not None
    with pytest.raises(UsageProblem, match="has 10000 x 10000 pixels; at most 64,000,000"):
        decode_picture(png_claiming(10_000, 10_000))
    with pytest.raises(UsageProblem, match="pixels"):
        decode_picture(png_claiming(1, 2**31 - 1))
    with pytest.raises(UsageProblem, match=r"cannot be read|has no pixels"):
        decode_picture(png_claiming(0, 5))


def test_files_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_image, "MAX_FILE_BYTES", 100)
    with pytest.raises(UsageProblem, match="has 101 bytes; at most 100"):
        decode_picture(b"x" * 101)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_cut_off_and_garbled_files_are_refused_in_one_line(form: str) -> None:
    whole = picture(form, size=(40, 40))
    rng = np.random.default_rng(1)
    for _ in range(60):
        raw = bytearray(whole)
        kind = int(rng.integers(3))
        if kind == 0:
            del raw[int(rng.integers(1, len(raw))) :]
        for _ in range(kind * 8):
            raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        try:
            found = decode_picture(bytes(raw), "it")
        except UsageProblem as error:
            assert error.message.startswith("it ")
            assert "\n" not in error.message
            assert len(error.message) < 200
        else:
            assert len(found.rgb) == 3 * found.width * found.height


@pytest.mark.parametrize(
    "raw", [b"", b"\x89PNG", b"hello", b"%!PS-Adobe-3.0 EPSF", b"\0" * 4096, b"II*\0" + b"\0" * 60]
)
def test_other_formats_are_not_even_tried(raw: bytes) -> None:
    """TIFF, EPS and the like have readers in Pillow with a longer history of holes."""
    with pytest.raises(UsageProblem, match="cannot be read: it is no PNG, JPEG, WebP, GIF or BMP"):
        decode_picture(raw)
