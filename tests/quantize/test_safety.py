"""Sources that change, disks that fill, and lineage that survives."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.quantize.made import made_path, write_imatrix
from tests.support.tiny_models import llama_model, split, tiny_llama

Cli = Callable[..., Done]


def nothing_left(registry: Registry) -> bool:
    return registry.models() == () and not [
        p for p in registry.home.rglob("*") if p.is_file() and p.suffix in (".gguf", ".part")
    ]


def test_a_source_that_changes_meanwhile(
    cli: Cli, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewritten with the same size and time, it is another file by its identity."""
    from localllm.engine.quantize import Quantizer

    path = tiny_llama(tmp_path / "s.gguf")
    run = Quantizer.quantize

    def and_then(self: Quantizer, source: Path, *args: object) -> object:
        report = run(self, source, *args)  # type: ignore[arg-type]
        status = path.stat()
        shutil.copyfile(path, tmp_path / "other")
        os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
        (tmp_path / "other").replace(path)
        return report

    monkeypatch.setattr(Quantizer, "quantize", and_then)
    done = cli("quantize", path, "Q4_0")
    assert done.exit_code == 7
    assert "s.gguf changed while it was being read" in done.err
    assert nothing_left(registry)


def test_a_file_that_is_cut_short_is_not_registered(
    cli: Cli, registry: Registry, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.engine.quantize import Quantizer

    run = Quantizer.quantize

    def and_cut(self: Quantizer, source: Path, output: Path, *args: object) -> object:
        report = run(self, source, output, *args)  # type: ignore[arg-type]
        os.truncate(output, output.stat().st_size - 40)
        return report

    monkeypatch.setattr(Quantizer, "quantize", and_cut)
    done = cli("quantize", tiny_gguf, "Q4_0")
    assert done.exit_code in (1, 7), done
    assert nothing_left(registry)


def test_too_little_room_is_said_before_anything_is_written(
    cli: Cli, registry: Registry, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = cli("quantize", tiny_gguf, "Q8_0", "--dry-run", "--json").data["file_bytes"]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, size - 1))
    done = cli("quantize", tiny_gguf, "Q8_0")
    assert done.exit_code == 1
    assert "free, the result needs" in done.err
    assert nothing_left(registry)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, size))
    assert cli("quantize", tiny_gguf, "Q8_0").exit_code == 0


def test_several_types_and_what_is_done_stays(
    cli: Cli, registry: Registry, tiny_gguf: Path
) -> None:
    done = cli("quantize", tiny_gguf, "Q8_0", "q4_0", "Q8_0", "--json")
    assert [one["type"] for one in done.data["outputs"]] == ["Q8_0", "Q4_0"]
    assert {m.name for m in registry.models()} == {"tiny:Q8_0", "tiny:Q4_0"}
    failed = cli("quantize", tiny_gguf, "Q5_0", "IQ1_S")
    assert failed.exit_code == 2
    assert registry.resolve("tiny:Q5_0").name == "tiny:Q5_0"
    assert cli("quantize", tiny_gguf, "Q5_0", "Q8_0", "--name", "a").exit_code == 2
    assert cli("quantize", tiny_gguf).exit_code == 2


def test_lineage_of_a_child_of_a_child_survives_a_rebuild(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    """The first one's lineage is longer than the second's, and is copied with the metadata."""
    path = tiny_llama(tmp_path / "s.gguf")
    write_imatrix(tmp_path / "i.gguf", path)
    types = [w for i in range(2) for w in ("--tensor-type", rf"^blk\.{i}\.attn_v\.weight$=q8_0")]
    cli("quantize", path, "Q6_K", *types, "--imatrix", tmp_path / "i.gguf", "--name", "first:Q6_K")
    done = cli("quantize", "first:Q6_K", "Q4_0", "--allow-requantize", "--json")
    assert done.exit_code == 0, done
    assert "is quantized already" in done.json["warnings"][0]
    second = registry.resolve("first:Q4_0").lineage
    assert second is not None
    first = registry.resolve("first:Q6_K").lineage
    assert first is not None
    assert first.versions["llama.cpp"] not in ("", "unknown")
    for manifest in registry.manifests.iterdir():
        manifest.unlink()
    registry.database.path.unlink()
    assert cli("rebuild").exit_code == 0
    found = {m.name: m.lineage for m in registry.models()}
    assert found == {"first:Q6_K": first, "first:Q4_0": second}
    assert "first:Q6_K" in cli("show", "first:Q4_0").out


def test_what_got_a_second_name_is_reused_too(
    cli: Cli, registry: Registry, tiny_gguf: Path
) -> None:
    cli("quantize", tiny_gguf, "Q4_0")
    pure = cli("quantize", tiny_gguf, "Q4_0", "--pure", "--json").data
    again = cli("quantize", tiny_gguf, "Q4_0", "--pure", "--json").data
    assert (pure["name"], again["name"]) == ("tiny:Q4_0-2", "tiny:Q4_0-2")
    assert (pure["reused"], again["reused"]) == (False, True)
    assert len(registry.models()) == 2


def test_show_says_what_it_was_made_with(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    """Parent, type, digests, versions and command; and the same stands in the file."""
    from localllm.formats.gguf import read_header
    from localllm.library.lineage import lineage_in

    path = tiny_llama(tmp_path / "s.gguf")
    write_imatrix(tmp_path / "i.gguf", path)
    done = cli("quantize", path, "Q4_0", "--imatrix", tmp_path / "i.gguf", "--json")
    lineage = done.data["model"]["lineage"]
    digest, parent = lineage["inputs"]["imatrix"], lineage["parents"][0][1]
    shown = cli("show", "s:Q4_0").out
    assert f"quantize Q4_0 of {path} (sha256 {parent[:12]}), with imatrix {digest[:12]}" in shown
    assert lineage["command"] in shown
    assert f"llama.cpp {lineage['versions']['llama.cpp']}" in shown
    document = cli("show", "s:Q4_0", "--json").data
    assert document["inputs"] == lineage["inputs"]
    assert document["parents"][0]["versions"] == lineage["versions"]
    inside = lineage_in(read_header(made_path(done)))
    assert inside == registry.resolve("s:Q4_0").lineage


def test_split_results_are_one_model(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    shards = split(llama_model, tmp_path, "big", n_shards=2)
    made = made_path(cli("quantize", shards[1], "Q8_0", "--keep-split", "--json"))
    model = registry.resolve("big:Q8_0")
    assert [f.name for f in model.files] == [
        "big-Q8_0-00001-of-00002.gguf",
        "big-Q8_0-00002-of-00002.gguf",
    ]
    assert model.path == made
    assert cli("verify", "big:Q8_0").exit_code == 0
    assert cli("quantize", shards[1], "Q8_0", "--keep-split", "--json").data["reused"]


@pytest.mark.parametrize("layers", ["2", "0,1", "0-1", "x"])
def test_layers_that_cannot_be_left_out(cli: Cli, tiny_gguf: Path, layers: str) -> None:
    assert cli("quantize", tiny_gguf, "Q8_0", "--prune-layers", layers).exit_code == 2


def test_a_pruned_model_runs(cli: Cli, tmp_path: Path) -> None:
    from localllm.engine.model import Model

    path = tiny_llama(tmp_path / "s.gguf", n_layer=4)
    made = made_path(cli("quantize", path, "Q8_0", "--prune-layers", "1,2", "--json"))
    with Model.load(made) as model:
        assert model.meta("llama.block_count") == "2"


def fill(home: Path) -> None:
    (home / "filler").write_bytes(bytes(3 << 20))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs mount")
def test_a_disk_that_fills_midway(
    cli: Cli, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes the room after we looked: nothing is registered, one line is said."""
    import subprocess

    import localllm.quantize.quantize as room

    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(home)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        path = tiny_llama(tmp_path / "s.gguf", n_layer=8)
        monkeypatch.setattr(room, "require_room", lambda folder, needed: fill(home))
        done = cli("quantize", path, "Q8_0")
        assert done.exit_code == 1, done
        assert "no room left" in done.err
        assert not list(home.rglob("*.part")) + list(home.rglob("*.gguf"))
    finally:
        subprocess.run(["umount", str(home)], check=True)
