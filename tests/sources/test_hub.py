"""HubSource and the real huggingface_hub client against a Hub on loopback."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm import config
from localllm.config import Settings
from localllm.errors import (
    AccessDenied,
    ChecksumMismatch,
    OfflineMode,
    SourceFailed,
    SourceNotFound,
    SourceUnreachable,
)
from localllm.refs import ModelRef
from localllm.sources import open_source
from localllm.sources.base import Advance, RemoteFile, journal_of
from localllm.sources.hub import HubSource
from localllm.sources.retry import Patience
from tests.support.http_server import Fault
from tests.support.hub_server import STRANGER_TOKEN, TOKEN, HubServer

WEIGHTS = b"GGUF" + random.Random(5).randbytes(2_000_000)
CONFIG = b'{"architectures": ["LlamaForCausalLM"]}\n'
HASTE = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.05, stall_s=1)
SILENT: Advance = lambda count: None  # noqa: E731


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as running:
        running.add_repo(
            "org/model-GGUF",
            {"m-Q4_K_M.gguf": WEIGHTS, "m-Q8_0.gguf": WEIGHTS[::-1], "README.md": b"# m"},
            card={"license": "apache-2.0"},
        )
        running.add_repo("org/model", {"model.safetensors": WEIGHTS, "config.json": CONFIG})
        yield running


@pytest.fixture
def settings(hub: HubServer, home: Path) -> Settings:
    return replace(config.load(home=home), hf_endpoint=hub.url)


@pytest.fixture
def source(settings: Settings) -> HubSource:
    return HubSource(settings, patience=HASTE)


def test_a_repository_is_located_at_its_commit(hub: HubServer, source: HubSource) -> None:
    listing = source.locate(ModelRef.parse("org/model-GGUF:Q4_K_M"))
    commit = hub.repos["org/model-GGUF"].commit
    assert listing.ref == ModelRef("hf", "org/model-GGUF", commit, "Q4_K_M")
    assert (listing.publisher, listing.repo) == ("org", "model-GGUF")
    assert listing.page == f"{hub.url}/org/model-GGUF"
    assert listing.license == "apache-2.0"
    assert [v.name for v in listing.variants] == ["Q4_K_M", "Q8_0"]
    (file,) = listing.variants[0].files
    assert (file.name, file.size_bytes) == ("m-Q4_K_M.gguf", len(WEIGHTS))
    assert file.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert len(hub.requests) == 1
    assert "localllm/" in hub.requests[0].headers["user-agent"]


def test_a_large_file_is_fetched_from_the_cdn_and_verified(
    hub: HubServer, source: HubSource, tmp_path: Path
) -> None:
    file = source.locate(ModelRef.parse("org/model-GGUF")).variants[0].files[0]
    hub.fail("/cdn/*", Fault(cut_after=1_000_000))
    hub.fail("/cdn/*", Fault(status=503))
    told: list[int] = []
    got = source.fetch(file, tmp_path / "p", told.append)
    assert (tmp_path / "p").read_bytes() == WEIGHTS
    assert got.verified and got.sha256 == file.sha256 and sum(told) == len(WEIGHTS)
    assert hub.served_bytes("/cdn/*") == len(WEIGHTS)
    resolve = hub.matching("/org/model-GGUF/resolve/*")
    assert resolve[0].path.split("/")[4] == hub.repos["org/model-GGUF"].commit


def test_the_header_is_read_by_range(hub: HubServer, source: HubSource) -> None:
    file = source.locate(ModelRef.parse("org/model-GGUF")).variants[0].files[0]
    assert source.read_range(file, 0, 1000) == WEIGHTS[:1000]
    assert source.read_range(file, 500_000, 10) == WEIGHTS[500_000:500_010]
    assert hub.served_bytes("/cdn/*") == 1010


def test_small_files_are_verified_by_their_git_id(
    hub: HubServer, source: HubSource, tmp_path: Path
) -> None:
    (variant,) = source.locate(ModelRef.parse("org/model")).variants
    by_name = {f.name: f for f in variant.files}
    assert by_name["config.json"].sha256 is None
    got = source.fetch(by_name["config.json"], tmp_path / "c", SILENT)
    assert got.verified and got.sha256 == hashlib.sha256(CONFIG).hexdigest()
    hub.fail("/org/model/resolve/*", Fault(wrong_bytes=True))
    with pytest.raises(ChecksumMismatch, match=r"config\.json of hf:org/model"):
        source.fetch(by_name["config.json"], tmp_path / "d", SILENT)
    assert not (tmp_path / "d").exists() and not journal_of(tmp_path / "d").exists()


def test_wrong_bytes_of_a_large_file(hub: HubServer, source: HubSource, tmp_path: Path) -> None:
    file = source.locate(ModelRef.parse("org/model-GGUF")).variants[0].files[0]
    hub.fail("/cdn/*", Fault(wrong_bytes=True))
    with pytest.raises(ChecksumMismatch):
        source.fetch(file, tmp_path / "p", SILENT)


def test_revisions(hub: HubServer, source: HubSource) -> None:
    repo = hub.repos["org/model"]
    repo.branches["v2/β"] = "b" * 40
    for revision in ("main", repo.commit):
        assert source.locate(ModelRef("hf", "org/model", revision)).ref.revision == repo.commit
    assert source.locate(ModelRef("hf", "org/model", "v2/β")).ref.revision == "b" * 40
    with pytest.raises(SourceNotFound, match="has no revision 'nope'"):
        source.locate(ModelRef("hf", "org/model", "nope"))


def test_a_repository_without_models(hub: HubServer, source: HubSource) -> None:
    hub.add_repo("org/data", {"README.md": b"", "pytorch_model.bin": b"x"})
    with pytest.raises(SourceNotFound, match="no GGUF, safetensors or adapter") as caught:
        source.locate(ModelRef.parse("org/data"))
    assert f"{hub.url}/org/data/tree/main" in str(caught.value.hint)


def test_file_names_that_would_leave_the_folder_are_not_listed(
    hub: HubServer, source: HubSource
) -> None:
    hub.add_repo("org/evil", {"../../x-Q4_0.gguf": b"", "/y-Q8_0.gguf": b"", "z-Q2_K.gguf": b""})
    listing = source.locate(ModelRef.parse("org/evil"))
    assert [f.name for v in listing.variants for f in v.files] == ["z-Q2_K.gguf"]


def test_an_adapter_names_its_base(hub: HubServer, source: HubSource) -> None:
    files = {"adapter_model.safetensors": b"x", "adapter_config.json": b"{}"}
    hub.add_repo("org/lora", files, card={"base_model": ["org/model"]})
    (variant,) = source.locate(ModelRef.parse("org/lora")).variants
    assert (variant.format, variant.extras["base_model"]) == ("adapter", "org/model")


def test_missing_and_private_look_the_same_to_a_stranger(
    hub: HubServer, source: HubSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/secret", {"m-Q4_0.gguf": WEIGHTS}, private=True)
    for name in ("org/missing", "org/secret"):
        with pytest.raises(SourceNotFound, match=f"no model repository {name}, or it is") as caught:
            source.locate(ModelRef.parse(name))
        assert "hf auth login" in str(caught.value.hint)
    _log_in(monkeypatch, STRANGER_TOKEN)
    with pytest.raises(SourceNotFound, match="org/secret"):
        source.locate(ModelRef.parse("org/secret"))
    _log_in(monkeypatch, TOKEN)
    assert source.locate(ModelRef.parse("org/secret")).variants[0].name == "Q4_0"


def test_gated_repositories(
    hub: HubServer, source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/gated", {"m-Q4_0.gguf": WEIGHTS}, gated="manual")
    file = source.locate(ModelRef.parse("org/gated")).variants[0].files[0]
    for token in (None, STRANGER_TOKEN):
        _log_in(monkeypatch, token)
        with pytest.raises(AccessDenied, match="hf:org/gated is gated") as caught:
            source.read_range(file, 0, 4)
        assert f"{hub.url}/org/gated" in str(caught.value.hint)
        assert "hf auth login" in str(caught.value.hint)
        with pytest.raises(AccessDenied, match="gated"):
            source.fetch(file, tmp_path / "p", SILENT)
    _log_in(monkeypatch, TOKEN)
    assert source.fetch(file, tmp_path / "p", SILENT).verified
    cdn = hub.matching("/cdn/*")
    assert cdn and not any("authorization" in r.headers for r in cdn)


def test_a_token_that_is_wrong(
    hub: HubServer, source: HubSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    _log_in(monkeypatch, "hf_wrong")
    with pytest.raises(AccessDenied, match="does not accept the token"):
        source.locate(ModelRef.parse("org/model"))


def test_a_file_that_is_gone(hub: HubServer, source: HubSource, tmp_path: Path) -> None:
    file = source.locate(ModelRef.parse("org/model-GGUF")).variants[0].files[0]
    del hub.repos["org/model-GGUF"].files["m-Q4_K_M.gguf"]
    with pytest.raises(SourceNotFound, match=r"no m-Q4_K_M\.gguf of hf:org/model-GGUF"):
        source.fetch(file, tmp_path / "p", SILENT)


def test_a_hub_in_trouble_is_asked_again(hub: HubServer, source: HubSource) -> None:
    hub.fail("/api/*", Fault(status=503))
    hub.fail("/api/*", Fault(drop=True))
    assert source.locate(ModelRef.parse("org/model")).variants
    hub.fail("/api/*", Fault(status=429, headers={"Retry-After": "1"}))
    started = time.monotonic()
    assert source.locate(ModelRef.parse("org/model")).variants
    assert time.monotonic() - started >= 1
    hub.fail("/api/*", Fault(status=500), times=-1)
    with pytest.raises(SourceFailed, match="status 500"):
        source.locate(ModelRef.parse("org/model"))


def test_a_hub_that_answers_nonsense(hub: HubServer, source: HubSource) -> None:
    hub.fail("/api/*", Fault(status=200), times=-1)  # an empty body
    with pytest.raises(SourceFailed, match="no model listing"):
        source.locate(ModelRef.parse("org/model"))


def test_no_hub_at_all(settings: Settings) -> None:
    with HubServer() as gone:
        url = gone.url
    source = HubSource(replace(settings, hf_endpoint=url), patience=HASTE)
    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1:\d+ cannot be reached"):
        source.locate(ModelRef.parse("org/model"))


def test_offline(hub: HubServer, settings: Settings) -> None:
    source = open_source(ModelRef.parse("org/model"), replace(settings, offline=True))
    file = RemoteFile("m.gguf", 1, None, "weights", {"repo": "a/b", "commit": "c", "path": "m"})
    for call in (
        lambda: source.locate(ModelRef.parse("org/model")),
        lambda: source.read_range(file, 0, 1),
        lambda: source.fetch(file, Path("p"), SILENT),
    ):
        with pytest.raises(OfflineMode) as caught:
            call()
        assert "HF_HUB_OFFLINE" in str(caught.value.hint)
    assert hub.requests == []


def test_nothing_is_printed(
    hub: HubServer, source: HubSource, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.fail("/api/*", Fault(status=503))
    hub.fail("/api/*", Fault(headers={"X-HF-Warning": "topic; the Hub warns"}))
    file = source.locate(ModelRef.parse("org/model-GGUF")).variants[0].files[0]
    source.fetch(file, tmp_path / "p", SILENT)
    assert capfd.readouterr() == ("", "")


def _log_in(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """huggingface_hub reads the environment's token at each request."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
