"""FileSource: models on this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from localllm import config
from localllm.config import Settings
from localllm.errors import DamagedFile, FileGone, SourceNotFound
from localllm.refs import ModelRef
from localllm.sources import open_source
from localllm.sources.base import Advance, journal_of
from localllm.sources.file import FileSource, local_path
from localllm.sources.file_copy import bring

DATA = b"GGUF" + os.urandom(1_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
SILENT: Advance = lambda count: None  # noqa: E731


@pytest.fixture
def settings(home: Path) -> Settings:
    return config.load(home=home)


@pytest.fixture
def source(settings: Settings) -> FileSource:
    return FileSource(settings)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "私の models" / "m-Q4_K_M.gguf"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


def test_a_file(source: FileSource, model: Path) -> None:
    ref = ModelRef.parse(f"file:{model}")
    listing = source.locate(ref)
    assert (listing.ref, listing.publisher, listing.repo) == (ref, "local", "m-Q4_K_M")
    (variant,) = listing.variants
    assert (variant.name, variant.format, variant.extras["quant"]) == (None, "gguf", "Q4_K_M")
    (file,) = variant.files
    assert (file.name, file.size_bytes, file.sha256) == (model.name, len(DATA), None)
    assert local_path(file) == model
    assert source.read_range(file, 4, 6) == DATA[4:10]
    assert source.read_range(file, len(DATA) - 1, 6) == DATA[-1:]


def test_paths_from_here_and_from_home(
    settings: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent.parent)
    monkeypatch.setenv("HOME", str(model.parent))
    monkeypatch.setenv("USERPROFILE", str(model.parent))
    for text in (f"./{model.parent.name}/{model.name}", f"~/{model.name}"):
        ref = ModelRef.parse(text)
        file = open_source(ref, settings).locate(ref).variants[0].files[0]
        assert local_path(file).read_bytes() == DATA


def test_only_the_named_one_of_several(source: FileSource, model: Path) -> None:
    (model.parent / "other-Q4_K_M.gguf").write_bytes(DATA)
    (model.parent / "m-Q8_0.gguf").write_bytes(DATA)
    (variant,) = source.locate(ModelRef("file", str(model))).variants
    assert [f.name for f in variant.files] == [model.name]


def test_the_projector_beside_it_comes_along(source: FileSource, model: Path) -> None:
    (model.parent / "mmproj-F16.gguf").write_bytes(DATA)
    (variant,) = source.locate(ModelRef("file", str(model))).variants
    assert [(f.name, f.role) for f in variant.files] == [
        ("m-Q4_K_M.gguf", "weights"),
        ("mmproj-F16.gguf", "mmproj"),
    ]


def test_a_shard_stands_for_its_family(source: FileSource, tmp_path: Path) -> None:
    shards = [tmp_path / f"big-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for shard in shards:
        shard.write_bytes(DATA)
    listing = source.locate(ModelRef("file", str(shards[1])))
    assert listing.repo == "big"
    assert [f.name for f in listing.variants[0].weights] == [s.name for s in shards]
    shards[2].unlink()
    with pytest.raises(SourceNotFound, match=r"lacks big-00003-of-00003\.gguf"):
        source.locate(ModelRef("file", str(shards[0])))


@pytest.mark.parametrize("name", ["style-lora.gguf", "mmproj-F16.gguf", "x.imatrix.gguf"])
def test_a_file_of_an_unusual_name_is_taken_at_its_word(
    source: FileSource, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(DATA)
    (variant,) = source.locate(ModelRef("file", str(tmp_path / name))).variants
    assert [f.name for f in variant.files] == [name]


def test_a_folder_of_safetensors(source: FileSource, tmp_path: Path) -> None:
    folder = tmp_path / "hf model"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "notes.txt"):
        (folder / name).write_bytes(b"x")
    listing = source.locate(ModelRef("file", str(folder)))
    (variant,) = listing.variants
    assert (listing.repo, variant.name, variant.format) == ("hf model", None, "safetensors")
    assert {f.name for f in variant.files} == {"model.safetensors", "config.json", "tokenizer.json"}


def test_a_folder_of_ggufs(source: FileSource, model: Path) -> None:
    sub = model.parent / "Q8_0"
    sub.mkdir()
    (sub / "m-Q8_0.gguf").write_bytes(DATA)
    listing = source.locate(ModelRef("file", str(model.parent)))
    found = {v.name: v.files[0].name for v in listing.variants}
    assert found == {"Q4_K_M": model.name, "Q8_0": "Q8_0/m-Q8_0.gguf"}


def test_what_is_not_there(source: FileSource, tmp_path: Path, model: Path) -> None:
    with pytest.raises(SourceNotFound, match="there is no file"):
        source.locate(ModelRef("file", str(tmp_path / "none.gguf")))
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(DamagedFile, match="is no GGUF file"):
        source.locate(ModelRef("file", str(tmp_path / "text.txt")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceNotFound, match="has no GGUF"):
        source.locate(ModelRef("file", str(tmp_path / "empty")))
    file = source.locate(ModelRef("file", str(model))).variants[0].files[0]
    model.unlink()
    with pytest.raises(FileGone):
        source.read_range(file, 0, 1)
    with pytest.raises(FileGone):
        source.fetch(file, tmp_path / "p", SILENT)


def test_fetching_costs_no_room_on_the_same_disk(
    source: FileSource, model: Path, tmp_path: Path
) -> None:
    file = source.locate(ModelRef("file", str(model))).variants[0].files[0]
    partial = tmp_path / "partial" / "p"
    told: list[int] = []
    got = source.fetch(file, partial, told.append)
    assert partial.read_bytes() == DATA
    assert (got.sha256, got.size_bytes, got.verified) == (SHA256, len(DATA), False)
    assert sum(told) == len(DATA)


def test_a_link_to_a_file_becomes_the_file(source: FileSource, model: Path, tmp_path: Path) -> None:
    """As in the cache of the Hugging Face client, whose snapshots are symbolic links."""
    link = tmp_path / "link.gguf"
    try:
        link.symlink_to(model)
    except OSError:
        pytest.skip("this system lets only administrators make symbolic links")
    file = source.locate(ModelRef("file", str(link))).variants[0].files[0]
    assert file.name == "link.gguf"
    source.fetch(file, tmp_path / "p", SILENT)
    assert not (tmp_path / "p").is_symlink()
    assert (tmp_path / "p").read_bytes() == DATA


def test_what_lay_at_the_partial_is_replaced_not_written_through(
    source: FileSource, model: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    os.link(precious, tmp_path / "p")
    journal_of(tmp_path / "p").write_text("{}")
    file = source.locate(ModelRef("file", str(model))).variants[0].files[0]
    source.fetch(file, tmp_path / "p", SILENT)
    assert precious.read_bytes() == b"precious"
    assert (tmp_path / "p").read_bytes() == DATA
    assert not journal_of(tmp_path / "p").exists()


def test_a_copy_where_neither_clone_nor_link_is_possible(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    told: list[int] = []
    got = bring(model, len(DATA), tmp_path / "p", told.append)
    assert got.sha256 == SHA256 and sum(told) == len(DATA)
    model.write_bytes(b"changed")
    assert (tmp_path / "p").read_bytes() == DATA


def test_a_clone_on_a_file_system_that_has_them(tmp_path: Path) -> None:
    """btrfs in a file; only root of a Linux machine with btrfs can make one."""
    image, folder = tmp_path / "image", tmp_path / "btrfs"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(200 << 20)
    try:
        for command in (["mkfs.btrfs", "-q", image], ["mount", "-o", "loop", image, folder]):
            subprocess.run([str(word) for word in command], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a btrfs image needs root, btrfs-progs and the kernel's btrfs")
    try:
        source = folder / "m.gguf"
        source.write_bytes(DATA)
        assert bring(source, len(DATA), folder / "p", SILENT).sha256 == SHA256
        assert (folder / "p").stat().st_ino != source.stat().st_ino
        source.write_bytes(b"changed")
        assert (folder / "p").read_bytes() == DATA
    finally:
        subprocess.run(["umount", str(folder)], check=True)
