"""Plans: saved, edited, replayed, and refused where they are of another model."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.quantize.planfile import patterns_of
from tests.conftest import Done
from tests.quantize.made import made_path
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]


def types_in(path: Path) -> dict[str, str]:
    import gguf

    return {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_saved_edited_and_replayed(cli: Cli, tiny_gguf: Path, tmp_path: Path, suffix: str) -> None:
    plan = tmp_path / f"plan.{suffix}"
    done = cli("quantize", tiny_gguf, "Q4_K_M", "--dry-run", "--save-plan", plan, "--json")
    assert done.exit_code == 0, done
    text = plan.read_text()
    tensors = (tomllib.loads(text) if suffix == "toml" else json.loads(text))["tensors"]
    preset = types_in(made_path(cli("quantize", tiny_gguf, "Q4_K_M", "--json")))
    assert {n: t for n, t in preset.items() if n in tensors} == tensors
    assert {n for n in preset if n not in tensors} == {n for n in preset if "norm" in n}

    name = "blk.1.attn_k.weight"
    line = f'"{name}" = ' if suffix == "toml" else f'"{name}": '
    assert line in text
    plan.write_text(text.replace(f'{line}"{tensors[name]}"', f'{line}"q8_0"'))
    made = made_path(cli("quantize", tiny_gguf, "--plan", plan, "--name", "mine:1", "--json"))
    assert types_in(made) == preset | {name: "q8_0"}


def test_a_plan_replays_its_pruning_and_metadata(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    args = ["--prune-layers", "0", "--override-kv", "a.b=int:7", "--save-plan", plan]
    first = made_path(cli("quantize", tiny_gguf, "Q6_K", *args, "--json"))
    again = cli("quantize", tiny_gguf, "--plan", plan, "--name", "again:1", "--json")
    assert types_in(made_path(again)) == types_in(first)
    assert set(types_in(first)) & {"blk.0.attn_q.weight", "blk.1.attn_q.weight"} == {
        "blk.0.attn_q.weight"
    }


def refused(cli: Cli, model: Path, plan: Path, document: object) -> str:
    plan.write_text(document if isinstance(document, str) else json.dumps(document))
    done = cli("quantize", model, "--plan", plan)
    assert done.exit_code in (2, 7), done
    assert len(done.err.strip().splitlines()) <= 2
    return done.err


def test_plans_that_cannot_be(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    plan, start = tmp_path / "p.json", {"format": "localllm.quantize.plan", "version": 1}
    say = refused(cli, tiny_gguf, plan, {**start, "type": "Q4_0", "tensors": {"blk.9.x": "q8_0"}})
    assert "of another model" in say
    assert "blk.9.x" in say
    norm = {"output_norm.weight": "q4_0"}
    assert "output_norm" in refused(
        cli, tiny_gguf, plan, {**start, "type": "Q4_0", "tensors": norm}
    )
    bad = {"token_embd.weight": "q99"}
    assert "q99" in refused(cli, tiny_gguf, plan, {**start, "type": "Q4_0", "tensors": bad})
    for document in ("{", "[]", {}, {**start, "version": 2}, start, {**start, "type": 3}):
        refused(cli, tiny_gguf, plan, document)
    whole = {**start, "type": "Q4_0", "tensors": {}}
    for document, why in (
        (start | {"tensors": {}}, 'it wants a line type = "Q4_K_M"'),
        (start | {"type": "Q4_0"}, "it has no tensors"),
        (whole | {"tensors": {"token_embd.weight": 6}}, "the type of token_embd.weight is 6"),
        (whole | {"prune_layers": ["0"]}, "prune_layers are numbers of layers"),
        (whole | {"prune_layers": 3}, "prune_layers are numbers of layers"),
        (whole | {"metadata": [1]}, "metadata is text"),
        ('type = "Q4_0"', "it is read as JSON for its name"),
    ):
        told = refused(cli, tiny_gguf, plan, document)
        assert why in told, told
        assert "Error(" not in told
    assert cli("quantize", tiny_gguf, "--plan", tmp_path / "none.json").exit_code == 3
    for extra in (["Q4_0"], ["--pure"], ["--prune-layers", "0"], ["--tensor-type", "a=q8_0"]):
        assert cli("quantize", tiny_gguf, *extra, "--plan", plan).exit_code == 2


def test_a_type_that_needs_importance_is_laid_at_the_tensor(
    cli: Cli, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Not at the preset of all others, which needs none."""
    document = {"format": "localllm.quantize.plan", "version": 1, "type": "Q6_K",
                "tensors": {"blk.0.attn_q.weight": "iq1_s"}}  # fmt: skip
    said = refused(cli, tiny_gguf, tmp_path / "p.json", document)
    assert "blk.0.attn_q.weight cannot be iq1_s without an importance matrix" in said
    assert "Q6_K needs" not in said


def test_a_byte_order_mark_is_no_part_of_a_plan(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    plan = tmp_path / "p.toml"
    assert cli("quantize", tiny_gguf, "Q8_0", "--dry-run", "--save-plan", plan).exit_code == 0
    plan.write_bytes(b"\xef\xbb\xbf" + plan.read_bytes())
    done = cli("quantize", tiny_gguf, "--plan", plan, "--dry-run")
    assert done.exit_code == 0, done


def test_a_shape_that_forces_another_type_is_said(cli: Cli, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "odd.gguf", n_embd=192)
    document = {"format": "localllm.quantize.plan", "version": 1, "type": "Q4_0",
                "tensors": {"blk.0.attn_q.weight": "q4_k"}}  # fmt: skip
    said = refused(cli, model, tmp_path / "p.json", document)
    assert "rows have 192 elements" in said


def test_patterns_are_few_and_exact() -> None:
    import re

    tensors = {f"blk.{i}.attn_q.weight": "q4_k" if i % 2 else "q6_k" for i in range(80)}
    tensors |= {"output.weight": "q8_0"}
    patterns = patterns_of(tensors)
    assert len(patterns) == 3
    for name, kind in tensors.items():
        assert [k for p, k in patterns if re.search(p, name)] == [kind]
    assert not any(re.search(p, "xblk.1.attn_q.weight2") for p, _ in patterns)


@pytest.mark.parametrize("kind", ["F16", "COPY", "F32"])
def test_a_plan_of_one_type_replays(cli: Cli, tiny_gguf: Path, tmp_path: Path, kind: str) -> None:
    """llama.cpp takes no types by tensor there, but for the output and the embedding."""
    plan = tmp_path / "plan.json"
    assert cli("quantize", tiny_gguf, kind, "--dry-run", "--save-plan", plan).exit_code == 0
    again = types_in(made_path(cli("quantize", tiny_gguf, "--plan", plan, "--json")))
    assert {t for n, t in again.items() if "norm" not in n} == {"f32" if kind == "F32" else "f16"}
    document = json.loads(plan.read_text())
    document["tensors"]["output.weight"] = "q8_0"
    plan.write_text(json.dumps(document))
    edited = cli("quantize", tiny_gguf, "--plan", plan, "--name", "mine:1", "--json")
    if kind != "COPY":
        assert types_in(made_path(edited)) == again | {"output.weight": "q8_0"}
    document["tensors"]["blk.0.attn_q.weight"] = "q4_0"
    plan.write_text(json.dumps(document))
    done = cli("quantize", tiny_gguf, "--plan", plan)
    assert done.exit_code == 2
    assert f"{kind} gives all the same type" in done.err
    plan.write_text(json.dumps(document | {"type": "Q8_0"}))
    made = types_in(made_path(cli("quantize", tiny_gguf, "--plan", plan, "--json")))
    assert made == again | {"output.weight": "q8_0", "blk.0.attn_q.weight": "q4_0"}


@pytest.mark.skipif(os.name != "posix", reason="devices of Unix")
def test_a_device_is_written_to_and_not_replaced(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    null = tmp_path / "null"
    null.symlink_to(os.devnull)
    assert cli("quantize", tiny_gguf, "Q8_0", "--dry-run", "--save-plan", null).exit_code == 0
    assert null.is_symlink()
    missing = tmp_path / "no" / "plan.json"
    done = cli("quantize", tiny_gguf, "Q8_0", "--dry-run", "--save-plan", missing)
    assert done.exit_code == 3, done
    assert "there is no folder" in done.err
