"""The Ollama source against a registry on loopback that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.config import Settings, load
from localllm.errors import (
    AccessDenied,
    ChecksumMismatch,
    DamagedFile,
    LocalLLMError,
    OfflineMode,
    SourceFailed,
    SourceNotFound,
)
from localllm.refs import ModelRef
from localllm.sources.http import HttpFetcher
from localllm.sources.ollama import OllamaSource, _challenged
from localllm.sources.retry import Patience
from tests.support.http_server import Fault
from tests.support.ollama_server import OllamaServer, layer_of, manifest_of

MODEL = b"GGUF" + os.urandom(100_000)
PROJECTOR = b"GGUF" + os.urandom(5_000)
TEMPLATE = "{{ .System }} {{ .Prompt }} ✓"
PARAMS = {"stop": ["<|end|>"], "temperature": 0.5, "num_ctx": 4096}
LAYERS: list[tuple[str, bytes | Path]] = [
    ("model", MODEL),
    ("projector", PROJECTOR),
    ("template", TEMPLATE.encode()),
    ("system", b"You are tiny."),
    ("params", json.dumps(PARAMS).encode()),
    ("license", b"\n  MIT License  \nmore"),
    ("license", b"Second license"),
    ("messages", b'[{"role": "user", "content": "hi"}]'),
]


@pytest.fixture
def registry() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


def settings_for(server: OllamaServer, offline: bool = False) -> Settings:
    return replace(load({}), ollama_registry=server.url, offline=offline)


def source_for(server: OllamaServer) -> OllamaSource:
    quick = HttpFetcher(patience=Patience(attempts=2, first_wait_s=0.01), explain=_challenged)
    return OllamaSource(settings_for(server), quick)


def ref(text: str) -> ModelRef:
    return ModelRef.parse(text)


def test_every_layer_is_taken_over(registry: OllamaServer) -> None:
    digest = registry.push("library/tiny", "1b", LAYERS)
    listing = source_for(registry).locate(ref("ollama:tiny:1b"))

    assert listing.ref == ModelRef("ollama", "tiny", digest.replace(":", "-"), "1b")
    assert (listing.publisher, listing.repo) == ("library", "tiny")
    assert listing.license == "MIT License"
    (variant,) = listing.variants
    assert (variant.name, variant.format) == ("1b", "gguf")
    assert [(f.name, f.role, f.size_bytes, f.sha256) for f in variant.files] == [
        ("tiny-1b.gguf", "weights", len(MODEL), hashlib.sha256(MODEL).hexdigest()),
        ("mmproj-tiny-1b.gguf", "mmproj", len(PROJECTOR), hashlib.sha256(PROJECTOR).hexdigest()),
    ]
    assert variant.extras == {
        "template": TEMPLATE,
        "system": "You are tiny.",
        "parameters": PARAMS,
        "license": "\n  MIT License  \nmore\n\nSecond license",
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert registry.served_bytes("/v2/library/tiny/blobs/*") < 1000  # no weights yet


def test_default_tag_namespace_and_manifest_type(registry: OllamaServer) -> None:
    registry.push("library/tiny", "latest", LAYERS[:1])
    registry.push("someone/tiny", "latest", [*LAYERS[1:2], ("model", PROJECTOR)])
    listing = source_for(registry).locate(ref("ollama:tiny"))
    assert listing.variants[0].name == "latest"
    theirs = source_for(registry).locate(ref("ollama:someone/tiny"))
    assert theirs.publisher == "someone"
    accept = registry.matching("*/manifests/*")[0].headers["accept"]
    assert "application/vnd.docker.distribution.manifest.v2+json" in accept


def test_a_host_in_the_name_is_asked_over_plain_http_on_loopback(registry: OllamaServer) -> None:
    registry.push("org/repo", "Q4_K_M", LAYERS[:1])
    elsewhere = OllamaSource(load({}))  # its default registry is not this one
    name = f"localhost:{registry.port}/org/repo"
    listing = elsewhere.locate(ref(f"ollama:{name}:Q4_K_M"))
    assert (listing.publisher, listing.repo) == ("org", "repo")
    assert listing.ref.name == name


def test_a_pinned_manifest_is_asked_for_by_digest_and_checked(registry: OllamaServer) -> None:
    old = registry.push("library/tiny", "1b", [("model", b"GGUF old")])
    registry.push("library/tiny", "1b", LAYERS[:1])
    source = source_for(registry)
    pinned = source.locate(ModelRef("ollama", "tiny", old.replace(":", "-"), "1b"))
    assert pinned.variants[0].files[0].size_bytes == 8

    registry.manifests["library/tiny", old] = registry.manifests["library/tiny", "1b"]
    with pytest.raises(ChecksumMismatch):
        source.locate(ModelRef("ollama", "tiny", old.replace(":", "-"), "1b"))


@pytest.mark.parametrize("cdn", [False, True])
def test_fetch_and_read_range(cdn: bool, tmp_path: Path) -> None:
    with OllamaServer(cdn=cdn, token="secret") as registry:
        registry.push("library/tiny", "1b", LAYERS)
        source = source_for(registry)
        file = source.locate(ref("ollama:tiny:1b")).variants[0].files[0]
        assert source.read_range(file, 4, 10) == MODEL[4:14]
        amounts: list[int] = []
        got = source.fetch(file, tmp_path / "p", amounts.append)
        assert (tmp_path / "p").read_bytes() == MODEL
        assert sum(amounts) == len(MODEL)
        assert got.verified and got.sha256 == hashlib.sha256(MODEL).hexdigest()
        assert len(registry.matching("/token")) == 1  # asked once, used for all
        # the token stays with the registry
        assert all("authorization" not in headers for headers in registry.cdn_headers)
        assert bool(registry.cdn_headers) == cdn


def test_an_interrupted_fetch_goes_on(registry: OllamaServer, tmp_path: Path) -> None:
    registry.push("library/tiny", "1b", LAYERS[:1])
    source = source_for(registry)
    file = source.locate(ref("ollama:tiny:1b")).variants[0].files[0]
    registry.fail("*/blobs/*", Fault(cut_after=60_000))
    source.fetch(file, tmp_path / "p", lambda n: None)
    assert (tmp_path / "p").read_bytes() == MODEL
    assert registry.matching("*/blobs/*")[-1].range_start == 60_000


def test_wrong_bytes_are_not_accepted(registry: OllamaServer, tmp_path: Path) -> None:
    registry.push("library/tiny", "1b", LAYERS)
    registry.fail("*/blobs/*", Fault(wrong_bytes=True), times=-1)
    with pytest.raises(ChecksumMismatch, match="template of tiny:1b"):
        source_for(registry).locate(ref("ollama:tiny:1b"))
    registry.mend()
    file = source_for(registry).locate(ref("ollama:tiny:1b")).variants[0].files[0]
    registry.fail("*/blobs/*", Fault(wrong_bytes=True), times=-1)
    with pytest.raises(ChecksumMismatch):
        source_for(registry).fetch(file, tmp_path / "p", lambda n: None)


def test_an_adapter_alone_and_shards(registry: OllamaServer) -> None:
    registry.push("library/lora", "latest", [("adapter", b"GGUF a")])
    registry.push("library/big", "latest", [("model", b"GGUF 1"), ("model", b"GGUF 22")])
    (adapter,) = source_for(registry).locate(ref("ollama:lora")).variants
    assert (adapter.format, adapter.files[0].role) == ("adapter", "adapter")
    (big,) = source_for(registry).locate(ref("ollama:big")).variants
    assert [f.name for f in big.files] == [
        "big-latest-00001-of-00002.gguf",
        "big-latest-00002-of-00002.gguf",
    ]


def test_a_missing_model_is_not_found(registry: OllamaServer) -> None:
    with pytest.raises(SourceNotFound, match=r"has no model library/tiny:7b"):
        source_for(registry).locate(ref("ollama:tiny:7b"))


def test_a_missing_tag_names_those_there_are() -> None:
    with OllamaServer(list_tags=True) as registry:
        registry.push("library/tiny", "1b", LAYERS[:1])
        registry.push("library/tiny", "3b", LAYERS[:1])
        source = source_for(registry)
        assert source.tags(ref("ollama:tiny")) == ("1b", "3b")
        with pytest.raises(SourceNotFound) as caught:
            source.locate(ref("ollama:tiny:7b"))
        assert caught.value.hint == "it has 1b, 3b"


def test_tags_are_not_found_where_the_registry_lists_none(registry: OllamaServer) -> None:
    with pytest.raises(SourceNotFound):
        source_for(registry).tags(ref("ollama:tiny"))


def test_a_private_model_is_refused() -> None:
    with OllamaServer(token="right") as registry:
        registry.push("library/tiny", "1b", LAYERS[:1])
        source = source_for(registry)
        registry.token = "changes each time \x01"  # a token that no header can carry
        with pytest.raises(AccessDenied, match="wants a login"):
            source.locate(ref("ollama:tiny:1b"))
        registry.fail("*/manifests/*", Fault(status=403), times=2)
        with pytest.raises(AccessDenied):
            source.locate(ref("ollama:tiny:1b"))


def test_offline_asks_nobody(registry: OllamaServer) -> None:
    with pytest.raises(OfflineMode):
        OllamaSource(settings_for(registry, offline=True)).locate(ref("ollama:tiny"))
    assert registry.requests == []


def test_models_without_weights_say_so(registry: OllamaServer) -> None:
    registry.push("library/cloud", "latest", [("license", b"L")])
    registry.push("library/mlx", "latest", [("tensor", b"t"), ("license", b"L")])
    with pytest.raises(SourceFailed, match="cloud model"):
        source_for(registry).locate(ref("ollama:cloud"))
    with pytest.raises(SourceFailed, match="safetensors"):
        source_for(registry).locate(ref("ollama:mlx"))


def changed(**values: Any) -> bytes:
    layer = {**layer_of("model", MODEL), **values}
    return json.dumps(manifest_of([layer])).encode()


HOSTILE = {
    "not JSON": b"<html>",
    "not an object": b"[]",
    "deep": b"[" * 200_000,
    "no layers": b"{}",
    "layers no list": b'{"layers": {"a": 1}}',
    "layer no object": b'{"layers": [1]}',
    "index": b'{"manifests": []}',
    "traversal": changed(digest="sha256:../../../etc/passwd"),
    "short digest": changed(digest="sha256:abc"),
    "other digest": changed(digest="md5:" + "0" * 64),
    "digest no text": changed(digest=5),
    "upper case": changed(digest="sha256:" + "A" * 64),
    "negative": changed(size=-1),
    "huge size": changed(size=1 << 80),
    "size no number": changed(size="5"),
    "size bool": changed(size=True),
    "hundreds of layers": json.dumps(manifest_of([layer_of("model", MODEL)] * 500)).encode(),
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_one_clear_line(name: str, registry: OllamaServer) -> None:
    registry.push_raw("library/bad", "latest", HOSTILE[name])
    with pytest.raises(DamagedFile) as caught:
        source_for(registry).locate(ref("ollama:bad"))
    assert "\n" not in caught.value.message and len(caught.value.message) < 200


def test_a_manifest_without_end_is_not_read_to_it(registry: OllamaServer) -> None:
    registry.push_raw("library/bad", "latest", b" " * (5 << 20))
    with pytest.raises(SourceFailed):
        source_for(registry).locate(ref("ollama:bad"))


@pytest.mark.parametrize(
    ("kind", "body"),
    [("params", b"[]"), ("params", b"{"), ("messages", b"{}"), ("template", b"\xff\xff")],
)
def test_a_text_layer_that_is_none(kind: str, body: bytes, registry: OllamaServer) -> None:
    registry.push("library/bad", "latest", [("model", MODEL), (kind, body)])
    with pytest.raises(DamagedFile, match=kind):
        source_for(registry).locate(ref("ollama:bad"))


def test_a_template_of_gigabytes_is_not_fetched(registry: OllamaServer) -> None:
    layer = {**layer_of("template", b"x"), "size": 1 << 32}
    made = json.dumps(manifest_of([layer_of("model", MODEL), layer])).encode()
    registry.push_raw("library/bad", "latest", made)
    with pytest.raises(LocalLLMError, match="4294967296 bytes"):
        source_for(registry).locate(ref("ollama:bad"))
    assert registry.matching("*/blobs/*") == []
