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
from tests.support.tiny_models import llama_model, split, tiny_llama, tiny_lora

Cli = Callable[..., Done]


def nothing_left(registry: Registry) -> bool:
    return registry.models() == () and not [
        p for p in registry.home.rglob("*") if p.is_file() and p.suffix in (".gguf", ".part")
    ]


def test_a_source_that_changes_meanwhile(
    cli: Cli, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewritten with the same size and time, it is another file by its identity."""
    from localllm.engine.quantize.quantize import Quantizer

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
    from localllm.engine.quantize.quantize import Quantizer

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


def test_two_at_once_under_one_name_are_two_models(
    cli: Cli, registry: Registry, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is free when the first one looks, and taken when it registers."""
    from localllm.library import derive

    sync = derive.sync

    def and_another(path: Path) -> None:
        monkeypatch.setattr(derive, "sync", sync)
        assert cli("quantize", tiny_gguf, "Q4_0", "--pure").exit_code == 0
        sync(path)

    monkeypatch.setattr(derive, "sync", and_another)
    done = cli("quantize", tiny_gguf, "Q4_0", "--json")
    assert done.exit_code == 0, done
    pure = {m.name: (m.lineage.parameters if m.lineage else {}) for m in registry.models()}
    assert pure == {"tiny:Q4_0": {"type": "Q4_0", "pure": True}, "tiny:Q4_0-2": {"type": "Q4_0"}}
    assert made_path(done).stat().st_size == done.data["file_bytes"]
    assert cli("verify", "tiny:Q4_0").exit_code == cli("verify", "tiny:Q4_0-2").exit_code == 0


def without_tensors_in_the_first(folder: Path, seed: int) -> list[Path]:
    """As llama-gguf-split --no-tensor-first-split leaves it: equal first shards."""
    from tests.support.gguf_writer import Val
    from tests.support.tiny_builder import _file

    model, shards = llama_model(seed=seed), []
    for i in range(2):
        own = {"split.no": Val("u16", i), "split.count": Val("u16", 2),
               "split.tensors.count": Val("i32", len(model.tensors))}  # fmt: skip
        shards.append(folder / f"big-0000{i + 1}-of-00002.gguf")
        metadata = (model.metadata if i == 0 else {}) | own
        shards[i].write_bytes(_file(metadata, model.tensors if i else []))
    return shards


def test_other_weights_behind_the_same_first_shard(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    first = without_tensors_in_the_first(tmp_path, seed=1)
    header = first[0].read_bytes()
    cli("imatrix", first[0], "--chunks", "2", "--chunk-size", "32")
    one = cli("quantize", first[0], "Q8_0", "--json")
    size = cli("quantize", first[0], "Q8_0", "--dry-run", "--json").data["file_bytes"]
    assert size == made_path(one).stat().st_size
    assert cli("quantize", first[0], "Q8_0", "--json").data["reused"]
    second = without_tensors_in_the_first(tmp_path, seed=2)
    assert second[0].read_bytes() == header
    other = cli("quantize", second[0], "Q8_0", "--json")
    assert not other.data["reused"]
    assert made_path(other).read_bytes()[-(1 << 16) :] != made_path(one).read_bytes()[-(1 << 16) :]
    note = cli("quantize", second[0], "Q4_0", "--imatrix", "auto", "--dry-run").err
    assert "no importance matrix is kept" in note


def test_an_attached_adapter_is_not_left_out_in_silence(
    cli: Cli, registry: Registry, tiny_gguf: Path, tmp_path: Path
) -> None:
    lora = tiny_lora(tmp_path / "l.gguf")
    (tmp_path / "Modelfile").write_text(f"FROM {tiny_gguf}\nADAPTER {lora}\n")
    assert cli("create", "tuned", "-f", tmp_path / "Modelfile").exit_code == 0
    for command in (("quantize", "tuned", "Q8_0"), ("imatrix", "tuned", "--chunks", "1")):
        done = cli(*command)
        assert done.exit_code == 2
        assert "runs with the adapter l.gguf" in done.err
        assert "localllm merge" in done.err and "--lora" in done.err
    assert [m.name for m in registry.models()] == ["tuned"]


@pytest.mark.parametrize(
    ("option", "tensor"),
    [("--output-tensor-type", "output"), ("--token-embedding-type", "token_embd")],
)
def test_types_that_llama_cpp_breaks_down_on_are_refused_before(
    cli: Cli, registry: Registry, tiny_gguf: Path, tmp_path: Path, option: str, tensor: str
) -> None:
    """Rows of 192 in blocks of 256, and a type that nothing without importance can be."""
    odd = tiny_llama(tmp_path / "odd.gguf", n_embd=192)
    for more in ((), ("--dry-run",)):
        done = cli("quantize", odd, "Q8_0", option, "q4_k", *more)
        assert done.exit_code == 2
        assert f"{tensor}.weight cannot be q4_K: its rows have 192 elements" in done.err
        done = cli("quantize", tiny_gguf, "Q8_0", option, "iq1_s", *more)
        assert done.exit_code == 2
        assert f"{tensor}.weight cannot be iq1_s without its importance" in done.err
    assert registry.models() == ()
