"""Models that other programs have put on this machine, found where they lie."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.config import Settings, load
from localllm.errors import FileGone
from localllm.refs import ModelRef
from localllm.sources.stores import FoundModel, find_models, store_root
from tests.support.hub_server import HubServer

WEIGHTS = b"GGUF weights " * 100
links = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")


def put(path: Path, body: bytes = b"GGUF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def found(kind: str, root: Path, notes: list[str] | None = None) -> tuple[FoundModel, ...]:
    sink = [] if notes is None else notes
    models = find_models(kind, root, load({}), sink.append)  # type: ignore[arg-type]
    assert notes is not None or sink == []
    return models


# --- Hugging Face cache -----------------------------------------------------------------


@links
def test_a_cache_that_huggingface_hub_made(tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    cache = tmp_path / "hub"
    shards = {f"big-Q8_0-0000{n}-of-00002.gguf": b"GGUF" + bytes([n]) for n in (1, 2)}
    with HubServer() as hub:
        hub.add_repo(
            "org/models-GGUF",
            {"tiny-Q4_K_M.gguf": WEIGHTS, "mmproj-F16.gguf": b"GGUF mm", **shards},
        )
        hub.add_repo(
            "org/plain",
            {
                "config.json": b"{}",
                "tokenizer.json": b"{}",
                "model.safetensors": b"safe",
                "README.md": b"hi",
            },
        )
        for name, made in hub.repos.items():
            for file in made.files:
                hf_hub_download(name, file, endpoint=hub.url, cache_dir=cache)
        commits = {name: repo.commit for name, repo in hub.repos.items()}

    models = {(m.repo, m.variant): m for m in found("hf-cache", cache)}
    assert set(models) == {
        ("models-GGUF", "Q4_K_M"),
        ("models-GGUF", "Q8_0"),
        ("plain", None),
    }
    tiny = models["models-GGUF", "Q4_K_M"]
    assert tiny.ref == ModelRef("hf", "org/models-GGUF", commits["org/models-GGUF"], "Q4_K_M")
    assert tiny.publisher == "org"
    weights = tiny.files[0]
    assert weights.path.read_bytes() == WEIGHTS
    assert weights.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert weights.size_bytes == len(WEIGHTS)
    big = models["models-GGUF", "Q8_0"]
    assert [f.name for f in big.files if f.role == "weights"] == sorted(shards)
    plain = models["plain", None]
    assert plain.format == "safetensors"
    assert {(f.name, f.role) for f in plain.files} == {
        ("model.safetensors", "weights"),
        ("config.json", "config"),
        ("tokenizer.json", "tokenizer"),
    }
    # small files are named by git's sha1, which is no sha256
    assert [f.sha256 for f in plain.files if f.role == "config"] == [None]


@links
def test_snapshots_of_a_cache(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--m"
    old, new = "a" * 40, "b" * 40
    blob = put(repo / "blobs" / ("c" * 64), WEIGHTS)
    for commit in (old, new):
        link = repo / "snapshots" / commit / "m-Q8_0.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to(Path("../../blobs") / blob.name)
    only_old = repo / "snapshots" / old / "m-Q4_0.gguf"
    only_old.symlink_to(Path("../../blobs") / put(repo / "blobs" / ("d" * 64)).name)
    (repo / "snapshots" / new / "m-F16.gguf").symlink_to("../../blobs/nothing")  # dangling
    put(repo / "refs" / "main", new.encode())
    put(tmp_path / "models--gpt2" / "snapshots" / new / "g-Q8_0.gguf")
    put(tmp_path / "datasets--org--d" / "snapshots" / new / "d.gguf")
    put(tmp_path / "version.txt", b"1")

    assert {str(model.ref) for model in found("hf-cache", tmp_path)} == {
        f"hf:org/m@{new}:Q8_0",  # shared with the old snapshot: once, at main's commit
        f"hf:org/m@{old}:Q4_0",
        f"hf:gpt2@{new}:Q8_0",
    }


# --- LM Studio and folders --------------------------------------------------------------


def test_lmstudio(tmp_path: Path) -> None:
    repo = tmp_path / "bartowski" / "Tiny-GGUF"
    put(repo / "Tiny-Q4_K_M.gguf")
    put(repo / "Tiny-Q8_0.gguf")
    put(repo / "mmproj-Tiny-F16.gguf")
    put(tmp_path / "stray.gguf")
    models = found("lmstudio", tmp_path)
    assert [(m.publisher, m.repo, m.variant) for m in models] == [
        ("bartowski", "Tiny-GGUF", "Q4_K_M"),
        ("bartowski", "Tiny-GGUF", "Q8_0"),
    ]
    assert models[0].ref == ModelRef("file", str(repo / "Tiny-Q4_K_M.gguf"))
    assert [f.role for f in models[0].files] == ["weights", "mmproj"]


def test_any_folder(tmp_path: Path) -> None:
    root = tmp_path / "モデル and more"
    put(root / "a" / "one-Q4_0.gguf")
    for n in (1, 3):
        put(root / "b" / f"two-0000{n}-of-00003.gguf")
    put(root / "c" / "model.safetensors")
    put(root / "c" / "config.json", b"{}")
    put(root / "d" / "adapter_model.safetensors")
    put(root / "d" / "adapter_config.json", b"{}")
    put(root / "e" / "deep" / "er" / "ONE.GGUF")
    put(root / "e" / "notes.txt")
    put(root / "f" / "config.json", b"{}")

    models = {m.repo: m for m in found("dir", root)}
    assert set(models) == {"a", "b", "c", "d", "er"}
    assert (models["a"].format, models["a"].variant) == ("gguf", "Q4_0")
    assert models["a"].ref == ModelRef("file", str(root / "a" / "one-Q4_0.gguf"))
    assert models["b"].missing == ("two-00002-of-00003.gguf",)
    assert models["c"].format == "safetensors"
    assert models["c"].ref == ModelRef("file", str(root / "c"))
    assert models["d"].format == "adapter"
    assert [f.path for f in models["er"].files] == [root / "e" / "deep" / "er" / "ONE.GGUF"]


@links
def test_links_and_loops(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(root / "a" / "real.gguf")
    put(outside / "far" / "away.gguf")
    (root / "a" / "same.gguf").symlink_to("real.gguf")
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "top").symlink_to(tmp_path, target_is_directory=True)
    (root / "far").symlink_to(outside, target_is_directory=True)
    (root / "far-again").symlink_to(outside / "far", target_is_directory=True)
    (outside / "back").symlink_to(root / "a", target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    os.link(root / "a" / "real.gguf", outside / "hard.gguf")
    models = found("dir", root)
    assert sorted(m.files[0].path.name for m in models) == ["away.gguf", "real.gguf"]


@pytest.mark.skipif(sys.platform == "win32", reason="Unix permissions")
def test_an_unreadable_folder_is_noted() -> None:
    root_user, settings = os.geteuid() == 0, load({})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put(folder / "open" / "a.gguf")
        put(folder / "shut" / "b.gguf")
        (folder / "shut").chmod(0)
        folder.chmod(0o755)
        notes: list[str] = []
        if root_user:  # who may read everything: be nobody meanwhile
            os.seteuid(65534)
        try:
            models = find_models("dir", folder, settings, notes.append)
        finally:
            if root_user:
                os.seteuid(0)
            (folder / "shut").chmod(0o700)
    assert [m.repo for m in models] == ["open"]
    assert len(notes) == 1 and "shut" in notes[0]


def test_a_huge_tree_does_not_fill_the_memory(tmp_path: Path) -> None:
    for folder in range(20):
        inner = tmp_path / f"d{folder}"
        inner.mkdir()
        for number in range(100):
            (inner / f"f{number}.json").touch()
    put(tmp_path / "d7" / "m.gguf")
    found("dir", tmp_path / "d7")  # what is imported and compiled once
    tracemalloc.start()
    assert len(found("dir", tmp_path)) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000  # 2,000 files, of which one folder is held at a time


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    for kind in ("ollama", "hf-cache", "lmstudio", "dir"):
        with pytest.raises(FileGone) as caught:
            found(kind, tmp_path / "nothing")
        assert str(tmp_path / "nothing") in caught.value.message


def test_where_stores_usually_are(tmp_path: Path) -> None:
    settings: Settings = replace(
        load({}),
        ollama_models=tmp_path / "o",
        hf_cache=tmp_path / "h",
        lmstudio_models=tmp_path / "l",
    )
    for folder in "ohl":
        (tmp_path / folder).mkdir()
    assert store_root("ollama", settings) == tmp_path / "o"
    assert store_root("hf-cache", settings) == tmp_path / "h"
    assert store_root("lmstudio", settings) == tmp_path / "l"
    assert store_root("dir", settings) is None
    assert find_models("ollama", None, settings) == ()
