"""Models that Ollama has put on this machine, found where they lie."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from localllm.config import load
from localllm.refs import ModelRef
from localllm.sources.stores import FoundModel, find_models
from tests.support.ollama_server import layer_of, manifest_of

WEIGHTS = b"GGUF weights " * 100


def put(path: Path, body: bytes = b"GGUF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def found(kind: str, root: Path, notes: list[str] | None = None) -> tuple[FoundModel, ...]:
    sink = [] if notes is None else notes
    models = find_models(kind, root, load({}), sink.append)  # type: ignore[arg-type]
    assert notes is not None or sink == []
    return models


def push(root: Path, where: str, layers: list[tuple[str, bytes]], separator: str = "-") -> None:
    for _, body in layers:
        digest = hashlib.sha256(body).hexdigest()
        put(root / "blobs" / f"sha256{separator}{digest}", body)
    manifest = manifest_of([layer_of(kind, body) for kind, body in layers])
    put(root / "manifests" / where, json.dumps(manifest).encode())


def test_ollama_models_with_their_layers(tmp_path: Path) -> None:
    layers = [
        ("model", WEIGHTS),
        ("projector", b"GGUF mm"),
        ("template", b"{{ .Prompt }}"),
        ("params", b'{"stop": ["x"]}'),
        ("license", b"MIT"),
    ]
    push(tmp_path, "registry.ollama.ai/library/tiny/1b", layers)
    push(tmp_path, "registry.ollama.ai/someone/tiny/latest", [("model", b"GGUF other")])
    push(tmp_path, "hf.co/org/repo-GGUF/Q4_K_M", [("model", b"GGUF third")])
    put(tmp_path / "manifests" / "registry.ollama.ai" / ".DS_Store")

    hub, mine, theirs = found("ollama", tmp_path)
    assert mine.ref == ModelRef("ollama", "tiny", None, "1b")
    assert (mine.publisher, mine.repo, mine.variant, mine.format) == (
        "library",
        "tiny",
        "1b",
        "gguf",
    )
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    weights, projector = mine.files
    assert weights.path == tmp_path / "blobs" / f"sha256-{digest}"
    assert (weights.name, weights.size_bytes, weights.sha256) == (
        "tiny-1b.gguf",
        len(WEIGHTS),
        digest,
    )
    assert (projector.name, projector.role) == ("mmproj-tiny-1b.gguf", "mmproj")
    assert mine.extras == {
        "template": "{{ .Prompt }}",
        "parameters": {"stop": ["x"]},
        "license": "MIT",
    }
    assert str(theirs.ref) == "ollama:someone/tiny:latest" and theirs.missing == ()
    assert str(hub.ref) == "ollama:hf.co/org/repo-GGUF:Q4_K_M"
    assert ModelRef.parse(str(hub.ref)) == hub.ref
    assert (hub.publisher, hub.repo) == ("org", "repo-GGUF")


@pytest.mark.skipif(sys.platform == "win32", reason="no colons in file names there")
def test_ollamas_older_blob_names(tmp_path: Path) -> None:
    push(tmp_path, "registry.ollama.ai/library/old/latest", [("model", WEIGHTS)], ":")
    (model,) = found("ollama", tmp_path)
    assert model.files[0].path.read_bytes() == WEIGHTS and model.missing == ()


def test_ollama_models_that_cannot_be_used_are_noted(tmp_path: Path) -> None:
    library = "registry.ollama.ai/library"
    push(tmp_path, f"{library}/good/latest", [("model", WEIGHTS)])
    push(tmp_path, f"{library}/gone/latest", [("model", b"GGUF to go")])
    (tmp_path / "blobs" / f"sha256-{hashlib.sha256(b'GGUF to go').hexdigest()}").unlink()
    push(tmp_path, f"{library}/cloud/latest", [("license", b"L")])
    put(tmp_path / "manifests" / library / "broken" / "latest", b"{")
    escape = {"layers": [{**layer_of("model", b"x"), "digest": "sha256:../../x"}]}
    put(tmp_path / "manifests" / library / "hostile" / "latest", json.dumps(escape).encode())
    push(tmp_path, f"{library}/params/latest", [("model", WEIGHTS), ("params", b"[]")])
    notes: list[str] = []
    gone, good = found("ollama", tmp_path, notes)
    assert (good.repo, good.missing) == ("good", ())
    assert (gone.repo, gone.missing) == ("gone", ("gone-latest.gguf",))
    assert len(notes) == 4 and all("\n" not in note for note in notes)
