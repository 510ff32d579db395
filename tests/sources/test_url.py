"""UrlSource: a GGUF at an address."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm import config
from localllm.config import Settings
from localllm.errors import (
    ChecksumMismatch,
    DamagedFile,
    OfflineMode,
    SourceNotFound,
    UsageProblem,
)
from localllm.refs import ModelRef
from localllm.sources import open_source
from localllm.sources.base import Advance
from localllm.sources.retry import Patience
from localllm.sources.url import UrlSource
from tests.support.http_server import Answer, Fault, FileServer, Request

DATA = b"GGUF" + bytes(range(256)) * 2000
SHA256 = hashlib.sha256(DATA).hexdigest()
HASTE = Patience(attempts=2, first_wait_s=0.01, stall_s=1)
SILENT: Advance = lambda count: None  # noqa: E731


class Share(FileServer):
    """A file share: /download?id=7 leads to a file with a name in its headers."""

    def respond(self, request: Request) -> Answer:
        if request.path == "/go":
            return Answer.redirect("/files/real-Q8_0.gguf?token=1")
        return super().respond(request)


@pytest.fixture
def server() -> Iterator[Share]:
    with Share() as running:
        running.add("/dir/tiny-Q4_K_M.gguf", DATA)
        running.add("/files/real-Q8_0.gguf", DATA)
        yield running


@pytest.fixture
def settings(home: Path) -> Settings:
    return config.load(home=home)


@pytest.fixture
def source(settings: Settings) -> UrlSource:
    return UrlSource(settings, patience=HASTE)


def test_a_file_at_an_address(server: Share, source: UrlSource, tmp_path: Path) -> None:
    ref = ModelRef.parse(f"{server.url}/dir/tiny-Q4_K_M.gguf?download=true")
    listing = source.locate(ref)
    assert listing.ref == ref
    assert (listing.publisher, listing.repo) == (f"127.0.0.1_{server.port}", "tiny-Q4_K_M")
    (variant,) = listing.variants
    assert (variant.name, variant.extras) == (None, {"quant": "Q4_K_M"})
    (file,) = variant.files
    assert (file.name, file.size_bytes, file.sha256) == ("tiny-Q4_K_M.gguf", len(DATA), None)
    assert source.read_range(file, 4, 3) == DATA[4:7]
    server.fail("/dir/*", Fault(cut_after=1000))
    got = source.fetch(file, tmp_path / "p", SILENT)
    assert (got.sha256, got.verified) == (SHA256, False)


def test_a_digest_given_by_the_user(server: Share, settings: Settings, tmp_path: Path) -> None:
    ref = ModelRef.parse(f"{server.url}/dir/tiny-Q4_K_M.gguf")
    source = open_source(ref, settings, sha256=f"sha256:{SHA256.upper()}")
    file = source.locate(ref).variants[0].files[0]
    assert file.sha256 == SHA256
    assert source.fetch(file, tmp_path / "p", SILENT).verified
    source = open_source(ref, settings, sha256="0" * 64)
    file = source.locate(ref).variants[0].files[0]
    with pytest.raises(ChecksumMismatch):
        source.fetch(file, tmp_path / "q", SILENT)


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, "0" * 63])
def test_what_is_no_digest(settings: Settings, text: str) -> None:
    with pytest.raises(UsageProblem, match="no sha256"):
        UrlSource(settings, text)


def test_a_digest_is_for_urls_only(settings: Settings) -> None:
    with pytest.raises(UsageProblem, match="--sha256"):
        open_source(ModelRef.parse("org/repo"), settings, sha256="0" * 64)


def test_shards_are_found_beside_the_one_named(server: Share, source: UrlSource) -> None:
    for index in (1, 2, 3):
        server.add(f"/s/a b-0000{index}-of-00003.gguf", DATA + bytes(index))
    ref = ModelRef.parse(f"{server.url}/s/a%20b-00002-of-00003.gguf")
    listing = source.locate(ref)
    files = listing.variants[0].files
    assert listing.repo == "a b"
    assert [f.name for f in files] == [f"a b-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert [f.size_bytes for f in files] == [len(DATA) + i for i in (1, 2, 3)]
    assert source.read_range(files[2], len(DATA), 9) == bytes(3)
    del server.answers["/s/a b-00003-of-00003.gguf"]
    with pytest.raises(SourceNotFound, match=r"lacks a b-00003-of-00003\.gguf"):
        source.locate(ref)


def test_one_digest_is_not_for_shards(server: Share, settings: Settings) -> None:
    for index in (1, 2):
        server.add(f"/a-0000{index}-of-00002.gguf", DATA)
    with pytest.raises(UsageProblem, match="2 shards"):
        UrlSource(settings, SHA256).locate(ModelRef.parse(f"{server.url}/a-00001-of-00002.gguf"))


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/download", 'attachment; filename="nice-Q4_0.gguf"', "nice-Q4_0.gguf"),
        ("/download", 'attachment; filename="../../evil.gguf"', "evil.gguf"),
        ("/download", 'attachment; filename="..\\..\\evil.gguf"', "_....evil.gguf"),
        ("/download", 'attachment; filename="nul.gguf"', "_nul.gguf"),
        (
            "/download",
            "attachment; filename*=UTF-8''%E3%83%A2%E3%83%87%E3%83%AB.gguf",
            "モデル.gguf",
        ),
        ("/download", "", "download.gguf"),
        ("/own.gguf", 'attachment; filename="other.gguf"', "own.gguf"),
        ("/%2e%2e%2fup.gguf", "", "up.gguf"),
        ("/a%3Cb.gguf", "", "a_b.gguf"),
    ],
)
def test_names(server: Share, source: UrlSource, path: str, disposition: str, name: str) -> None:
    from urllib.parse import unquote

    headers = {"Content-Disposition": disposition} if disposition else {}
    server.add(unquote(path), DATA, headers=headers)
    listing = source.locate(ModelRef.parse(server.url + path))
    assert listing.variants[0].files[0].name == name


def test_the_name_at_the_end_of_redirects(server: Share, source: UrlSource) -> None:
    listing = source.locate(ModelRef.parse(f"{server.url}/go"))
    assert listing.variants[0].files[0].name == "real-Q8_0.gguf"


def test_a_web_page_is_no_model(server: Share, source: UrlSource) -> None:
    server.add("/m.gguf", b"<html>log in</html>", headers={"Content-Type": "text/html; q=1"})
    with pytest.raises(DamagedFile, match="no GGUF file but text/html") as caught:
        source.locate(ModelRef.parse(f"{server.url}/m.gguf"))
    assert caught.value.exit_code == 7 and caught.value.hint is not None
    server.add("/empty.gguf", b"")
    with pytest.raises(DamagedFile):
        source.locate(ModelRef.parse(f"{server.url}/empty.gguf"))


def test_missing_and_offline(server: Share, settings: Settings, source: UrlSource) -> None:
    ref = ModelRef.parse(f"{server.url}/none.gguf")
    with pytest.raises(SourceNotFound, match=r"127\.0\.0\.1:\d+ has no /none\.gguf"):
        source.locate(ref)
    with pytest.raises(OfflineMode):
        UrlSource(replace(settings, offline=True)).locate(ref)
