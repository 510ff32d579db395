"""Importance matrices on the way into quantization."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm import texts
from localllm.errors import UsageProblem
from localllm.formats.imatrix import read_imatrix
from localllm.quantize.importance import load_importance, thinned
from localllm.registry import Model, Registry
from tests.conftest import Done, arrival
from tests.quantize.made import importances, made_path, write_imatrix
from tests.support.tiny_models import tiny_bert, tiny_llama, tiny_qwen3moe

Cli = Callable[..., Done]


@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_give_the_same_vectors(tiny_gguf: Path, tmp_path: Path, legacy: bool) -> None:
    import numpy as np

    path = tmp_path / "i.dat"
    vectors = write_imatrix(path, tiny_gguf, counts=96, legacy=legacy)
    found = load_importance(path)
    assert set(found.vectors) == set(vectors)
    for name, vector in vectors.items():
        summed = vector * np.float32(96)
        np.testing.assert_array_equal(found.vectors[name], summed / np.float32(96))
    assert found.n_chunks == 4
    metadata = found.metadata()
    assert metadata["quantize.imatrix.dataset"] == "text.txt"  # no path of this machine
    assert metadata["quantize.imatrix.entries_count"] == len(vectors)


def test_an_expert_without_tokens_counts_evenly(tmp_path: Path, cli: Cli) -> None:
    from gguf import GGUFReader

    model = tiny_qwen3moe(tmp_path / "moe.gguf", n_layer=1)
    path = tmp_path / "i.gguf"
    write_imatrix(path, model)
    reader = GGUFReader(path, "r+")
    counts = next(t for t in reader.tensors if t.name == "blk.0.ffn_up_exps.weight.counts")
    counts.data.reshape(-1)[2] = 0
    reader.data.flush()
    found = load_importance(path)
    assert found.quiet == {"blk.0.ffn_up_exps.weight": 1}
    rows = found.vectors["blk.0.ffn_up_exps.weight"].reshape(4, -1)
    assert (rows[2] == 1).all()
    assert not (rows[1] == 1).any()
    done = cli("quantize", model, "Q4_0", "--imatrix", path, "--json")
    assert any("1 experts were never activated" in text for text in done.json["warnings"])


def test_it_changes_types_and_stands_in_lineage(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    write_imatrix(path, tiny_gguf)
    done = cli("quantize", tiny_gguf, "IQ2_S", "--imatrix", path, "--json")
    assert made_path(done).exists()
    lineage = done.data["model"]["lineage"]
    assert lineage["inputs"] == {"imatrix": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert "--imatrix i.gguf" in lineage["command"]
    other = cli("quantize", tiny_gguf, "IQ2_S", "--imatrix", path, "--json")
    assert other.data["reused"]


def test_of_another_model_it_is_refused(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    for number, options in enumerate(({"n_layer": 3}, {"n_ff": 768})):
        other = tiny_llama(tmp_path / f"other{number}.gguf", **options)
        path = tmp_path / f"i{number}.gguf"
        write_imatrix(path, other)
        done = cli("quantize", tiny_gguf, "Q4_0", "--imatrix", path)
        assert done.exit_code == 2
        assert "is of another model" in done.err


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\x01\0\0\0\xff\xff\xff\x7f", b"x" * 100])
def test_what_is_none(cli: Cli, tiny_gguf: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "i.gguf"
    path.write_bytes(content)
    assert cli("quantize", tiny_gguf, "Q4_0", "--imatrix", path).exit_code == 7
    assert cli("quantize", tiny_gguf, "Q4_0", "--imatrix", tiny_gguf).exit_code == 7
    assert cli("quantize", tiny_gguf, "Q4_0", "--imatrix", tmp_path / "none").exit_code == 3


def test_parts_of_it(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    write_imatrix(path, tiny_gguf)
    whole = load_importance(path)
    names = set(importances(tiny_gguf))
    assert set(thinned(whole, ["attn_v"]).vectors) == {n for n in names if "attn_v" in n}
    assert set(thinned(whole, [], ["ffn", "attn_q"]).vectors) == {
        n for n in names if "ffn" not in n and "attn_q" not in n
    }
    with pytest.raises(UsageProblem):
        thinned(whole, ["nothing"])
    done = cli(
        "quantize", tiny_gguf, "Q4_0", "--imatrix", path, "--exclude-weights", "ffn_up", "--json"
    )
    assert "says nothing of 2 tensors" in done.json["warnings"][0]
    assert done.data["unweighted"] == ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight"]
    both = ["--include-weights", "a", "--exclude-weights", "b"]
    assert cli("quantize", tiny_gguf, "Q4_0", "--imatrix", path, *both).exit_code == 2
    assert cli("quantize", tiny_gguf, "Q4_0", "--include-weights", "a").exit_code == 2


def test_a_type_that_needs_one_says_so(cli: Cli, tiny_gguf: Path) -> None:
    done = cli("quantize", tiny_gguf, "IQ2_XXS", "--dry-run")
    assert done.exit_code == 2
    assert "needs an importance matrix" in done.err
    assert "--imatrix" in done.err


# --- --imatrix auto -----------------------------------------------------------------------


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> texts.Text:
    """A short text in place of the built-in one, which takes a minute even on a tiny model."""
    content = "".join(f"{i} the quick brown fox jumps over {i * i} lazy dogs.\n" for i in range(60))
    digest = hashlib.sha256(content.encode()).hexdigest()
    text = texts.Text("localllm:calibration", content, digest)
    monkeypatch.setattr(texts, "calibration", lambda: text)
    return text


def store(registry: Registry, path: Path, tmp_path: Path) -> Model:
    """`path` as the registered model org/small, in place of one of that name."""
    staged = Path(shutil.copy(path, tmp_path / "staged.gguf"))
    return registry.add(arrival("small", staged, file_name="small.gguf"))


def test_auto_makes_one_then_takes_the_one_that_is_kept(
    cli: Cli, registry: Registry, tmp_path: Path, short_calibration: texts.Text
) -> None:
    model = store(registry, tiny_llama(tmp_path / "s.gguf", n_layer=1), tmp_path)
    first = cli("quantize", "org/small", "IQ2_XS", "--imatrix", "auto", "--json")
    assert first.exit_code == 0, first
    (kept,) = (registry.home / "imatrix").rglob("*.gguf")
    inputs = first.data["model"]["lineage"]["inputs"]
    assert inputs == {
        "imatrix": hashlib.sha256(kept.read_bytes()).hexdigest(),
        "calibration_text": short_calibration.sha256,
    }
    facts = read_imatrix(kept).facts
    assert facts["model_sha256"] == model.weights[0].sha256
    stamp = kept.stat().st_mtime_ns
    second = cli("quantize", "org/small", "IQ2_S", "--imatrix", "auto")
    assert second.exit_code == 0, second
    assert f"importance matrix: {kept}" in second.err and "making one" not in second.err
    assert kept.stat().st_mtime_ns == stamp
    # it is no other matrix than the file itself given by name
    named = cli("quantize", "org/small", "IQ2_XS", "--imatrix", kept, "--json")
    assert named.data["reused"]


def test_auto_makes_another_when_the_model_has_changed(
    cli: Cli, registry: Registry, tmp_path: Path, short_calibration: texts.Text
) -> None:
    store(registry, tiny_llama(tmp_path / "a.gguf", n_layer=1, seed=1), tmp_path)
    first = cli("quantize", "org/small", "IQ2_XS", "--imatrix", "auto", "--json")
    old = next((registry.home / "imatrix").rglob("*.gguf"))
    changed = store(registry, tiny_llama(tmp_path / "b.gguf", n_layer=1, seed=2), tmp_path)
    second = cli("quantize", "org/small", "IQ2_XS", "--imatrix", "auto", "--json")
    new = next(p for p in (registry.home / "imatrix").rglob("*.gguf") if p != old)
    assert read_imatrix(new).facts["model_sha256"] == changed.weights[0].sha256
    digests = [one.data["model"]["lineage"]["inputs"]["imatrix"] for one in (first, second)]
    assert digests == [hashlib.sha256(p.read_bytes()).hexdigest() for p in (old, new)]
    assert not second.data["reused"]


def test_a_dry_run_with_auto_makes_none_and_is_exact(
    cli: Cli, registry: Registry, tmp_path: Path, short_calibration: texts.Text
) -> None:
    store(registry, tiny_llama(tmp_path / "s.gguf", n_layer=1), tmp_path)
    command = (
        "quantize",
        "org/small",
        "Q4_K_M",
        "--imatrix",
        "auto",
        "--exclude-weights",
        "attn_q",
    )
    plan = cli(*command, "--dry-run", "--json")
    assert plan.exit_code == 0, plan
    assert not (registry.home / "imatrix").exists()
    assert plan.json["warnings"] == []
    made = cli(*command, "--json")
    assert made.data["file_bytes"] == plan.data["file_bytes"]
    assert made_path(made).stat().st_size == plan.data["file_bytes"]
    again = cli(*command, "--dry-run", "--json")
    assert again.data["file_bytes"] == plan.data["file_bytes"]


def test_auto_where_no_matrix_can_be_made(
    cli: Cli, tmp_path: Path, short_calibration: texts.Text
) -> None:
    """An embedding model generates nothing, so nothing can be run through it for one."""
    bert = tiny_bert(tmp_path / "bert.gguf")
    done = cli("quantize", bert, "Q4_0", "--imatrix", "auto")
    assert done.exit_code in (0, 1), done
    assert "Traceback" not in done.err
    if done.exit_code:
        assert len([line for line in done.err.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_type_that_needs_what_was_left_out_is_refused_before_anything_is_written(
    cli: Cli, tiny_gguf: Path, tmp_path: Path, dry: tuple[str, ...], registry: Registry
) -> None:
    write_imatrix(path := tmp_path / "i.gguf", tiny_gguf)
    done = cli(
        "quantize", tiny_gguf, "IQ2_XS", "--imatrix", path, "--exclude-weights", "ffn_up", *dry
    )
    assert done.exit_code == 2, done
    assert "ffn_up" in done.err and len(done.err.strip().splitlines()) <= 2
    assert not registry.models()
