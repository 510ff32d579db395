"""import: what Ollama, the Hugging Face cache, LM Studio or a folder have, where it lies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.pull.conftest import sha256
from tests.pull.test_hub import CONFIG, REPO, safetensors
from tests.support.hub_server import HubServer
from tests.support.ollama_server import OllamaServer, layer_of, manifest_of

Cli = Callable[..., Done]
links = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def push(root: Path, where: str, layers: list[tuple[str, bytes]]) -> None:
    """A model in Ollama's store."""
    for _, body in layers:
        put(root / "blobs" / f"sha256-{sha256(body)}", body)
    manifest = json.dumps(manifest_of([layer_of(kind, body) for kind, body in layers]))
    put(root / "manifests/registry.ollama.ai" / where, manifest.encode())


def download(hub: HubServer, repo: str, cache: Path) -> None:
    """As other programs do, through huggingface_hub."""
    from huggingface_hub import hf_hub_download

    for name in hub.repos[repo].files:
        hf_hub_download(repo, name, endpoint=hub.url, cache_dir=cache)


def untouched(folder: Path) -> dict[str, tuple[int, int]]:
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def outcomes(done: Done) -> dict[str, str]:
    assert done.exit_code == 0, done
    return {one["name"]: one["outcome"] for one in done.data}


def test_from_ollama(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, ollama: OllamaServer,
) -> None:  # fmt: skip
    store = tmp_path / "ollama models"
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    layers = [("model", models["Q8_0"]), ("adapter", models["lora"]), ("system", b"Be kind.")]
    push(store, "library/tiny/1b", layers)
    push(store, "library/broken/latest", [("model", b"GGUF but no more")])
    before = untouched(store)
    dry = cli("import", "--from", "ollama", "--dry-run", "--json")
    assert outcomes(dry) == {"ollama:tiny:1b": "found", "ollama:broken:latest": "skipped"}
    assert registry.models() == ()
    assert outcomes(cli("import", "--from", "ollama", "--json"))["ollama:tiny:1b"] == "registered"
    model = registry.resolve("ollama:tiny:1b")
    assert model.path == store / "blobs" / f"sha256-{sha256(models['Q8_0'])}"
    assert (model.architecture, model.file_type) == ("llama", "Q8_0")
    assert cli("show", "ollama:tiny:1b", "--json").data["system"] == "Be kind."
    assert outcomes(cli("import", "--from", "ollama", "--json"))["ollama:tiny:1b"] == "known"
    # the registry's own name for the same bytes needs no download
    ollama.push("library/tiny", "1b", layers)
    assert cli("pull", "ollama:tiny:1b", "--json").data["reused"] is True
    assert cli("verify", "--all").exit_code == 0
    assert cli("rm", "ollama:tiny:1b").exit_code == 0
    assert untouched(store) == before


@links
def test_from_the_hugging_face_cache(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path, hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cache = tmp_path / "cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    plain = {"model.safetensors": safetensors(), "config.json": json.dumps(CONFIG).encode()}
    hub.add_repo("org/plain", plain)
    old = hub.add_repo(REPO, {"tiny-Q4_K_M.gguf": models["Q4_K_M"]}).commit
    for repo in (REPO, "org/plain"):
        download(hub, repo, cache)
    hub.add_repo(REPO, {"tiny-Q4_K_M.gguf": models["new"]}, commit="b" * 40)
    download(hub, REPO, cache)
    before = untouched(cache)
    pinned = f"{REPO}@{old[:12]}:Q4_K_M"
    assert outcomes(cli("import", "--from", "hf-cache", "--json")) == {
        f"{REPO}:Q4_K_M": "registered",  # what main means now
        pinned: "registered",
        "org/plain": "registered",
    }
    assert registry.resolve(f"{REPO}:Q4_K_M").path.read_bytes() == models["new"]
    assert registry.resolve(pinned).path.read_bytes() == models["Q4_K_M"]
    kept = registry.resolve("org/plain")
    assert (kept.format, kept.architecture, kept.n_ctx_train) == ("safetensors", "llama", 4096)
    assert cli("pull", f"{REPO}:Q4_K_M", "--json").data["reused"] is True
    assert set(outcomes(cli("import", "--from", "hf-cache", "--json")).values()) == {"known"}
    assert untouched(cache) == before


@links
def test_an_import_never_takes_the_place_of_what_was_pulled(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path, hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.add_repo(REPO, {"tiny-Q4_K_M.gguf": models["Q4_K_M"]})
    download(hub, REPO, tmp_path / "cache")
    cli("pull", f"{REPO}:Q4_K_M")
    mine = registry.resolve(REPO)
    done = cli("import", "--from", "hf-cache", "--json")
    assert outcomes(done) == {f"{REPO}:Q4_K_M": "known"}
    assert registry.resolve(REPO) == mine
    assert mine.path.exists()


def test_from_lmstudio_and_folders(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = tmp_path / "lmstudio"
    monkeypatch.setenv("LMSTUDIO_MODELS", str(store))
    put(store / "someone/tiny-GGUF/tiny-Q4_K_M.gguf", models["Q4_K_M"])
    put(store / "other/tiny-GGUF/tiny-Q4_K_M.gguf", models["new"])
    assert set(outcomes(cli("import", "--from", "lmstudio", "--json"))) == {
        "tiny-Q4_K_M",
        "tiny-Q4_K_M-2",
    }
    folder = tmp_path / "my models 家"
    path = put(folder / "deep" / "other.gguf", models["other"])
    put(folder / "deep" / "notes.txt", b"words")
    monkeypatch.chdir(tmp_path)
    assert outcomes(cli("import", "--from", "my models 家", "--json")) == {"other": "registered"}
    assert registry.resolve("other").path == path
    # moved elsewhere: the next import finds it there
    moved = put(folder / "elsewhere" / "other.gguf", models["other"])
    path.unlink()
    assert cli("import", "--from", folder).exit_code == 0
    assert moved in {m.path for m in registry.models()}


def test_nothing_to_import(cli: Cli, tmp_path: Path, home: Path) -> None:
    assert cli("import", "--from", tmp_path / "nothing").exit_code == 3
    (tmp_path / "empty").mkdir()
    assert cli("import", "--from", tmp_path / "empty").exit_code == 3
    assert cli("import").exit_code == 2
    assert not home.exists()
