"""Safetensors folders merged: types, shards, what lies beside, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.merge.folders import LAYERS, config_of, read_folder, weights, write_family, write_folder

Cli = Callable[..., Done]


def folder_of(done: Done) -> Path:
    assert done.exit_code == 0, done
    return Path(done.data["model"]["files"][0]["path"]).parent


def test_types_companions_and_the_registry(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    family = write_family(tmp_path, dtype="BF16")
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": []}
    for name in family:
        (Path(family[name]) / "tokenizer.json").write_text(json.dumps(tokenizer))
    (Path(family["first"]) / "chat_template.jinja").write_text("{{ messages }}")
    (Path(family["first"]) / "modeling.py").write_text("raise SystemExit")
    args = ("merge", family["first"], family["second"], "--method", "linear", "--weight", "0.5")
    planned = cli(*args, "--dry-run", "--json")
    done = cli(*args, "--json")
    made = folder_of(done)
    names = {path.name for path in made.iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"}
    assert done.data["type"] == "BF16"
    assert planned.data["file_bytes"] == sum(path.stat().st_size for path in made.iterdir())
    first, second = (read_folder(Path(family[n])) for n in ("first", "second"))
    for name, values in read_folder(made).items():
        np.testing.assert_allclose(values, (first[name] + second[name]) / 2, atol=2e-3)
    model = registry.resolve("first-linear:BF16")
    assert model.format == "safetensors"
    assert model.path == made
    assert model.lineage is not None
    assert len(model.lineage.parents) == 2
    wide = folder_of(cli(*args, "--type", "F16", "--json"))
    assert json.loads((wide / "config.json").read_text())["torch_dtype"] == "float16"
    assert cli(*args, "--json").data["reused"] is True
    assert cli("show", "first-linear:BF16").exit_code == 0
    assert cli("verify", "first-linear:BF16").exit_code == 0


def test_stacked_layers_are_counted_in_the_config(cli: Cli, tmp_path: Path) -> None:
    family = write_family(tmp_path)
    ranges = [f"{family['first']}=0-3", f"{family['second']}=1-3"]
    args = [word for text in ranges for word in ("--layers", text)]
    made = folder_of(cli("merge", "--method", "passthrough", *args, "--json"))
    assert json.loads((made / "config.json").read_text())["num_hidden_layers"] == LAYERS + 2
    second, found = read_folder(Path(family["second"])), read_folder(made)
    for rest in ("mlp.up_proj.weight", "input_layernorm.weight"):
        np.testing.assert_array_equal(
            found[f"model.layers.4.{rest}"], second[f"model.layers.2.{rest}"]
        )


def test_a_tied_and_an_untied_model(cli: Cli, tmp_path: Path) -> None:
    """Where one has no output of its own, its embedding stands for it."""
    a, b = weights(1), weights(2)
    tied = {name: values for name, values in a.items() if name != "lm_head.weight"}
    one = write_folder(tmp_path / "a", tied)
    two = write_folder(tmp_path / "b", b)
    done = cli("merge", one, two, "--method", "linear", "--weight", "0.5", "--json")
    found = read_folder(folder_of(done))
    expected = (a["model.embed_tokens.weight"] + b["lm_head.weight"]) / 2
    np.testing.assert_allclose(found["lm_head.weight"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_theta": 5e5}, "rope_theta is 10000 and 500000"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-06 and 1e-05"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 2 and 4"),
        ({"rope_scaling": {"factor": 8}}, "rope_scaling is not set and"),
        ({"text_config": {"head_dim": 8}}, "text_config.head_dim is not set and 8"),
        ({"architectures": ["QwenForCausalLM"]}, "is a LlamaForCausalLM, .* a QwenForCausalLM"),
    ],
)
def test_configs_that_compute_differently(
    cli: Cli, registry: Registry, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    import re

    one = write_folder(tmp_path / "a", weights(1))
    two = write_folder(tmp_path / "b", weights(2), config=config_of(**changes))
    done = cli("merge", one, two, "--method", "linear", "--weight", "0.5")
    assert done.exit_code == 2
    assert re.search(said, done.err), done.err
    assert registry.models() == ()


def test_vocabularies_shapes_and_mixed_formats(cli: Cli, tmp_path: Path, tiny_gguf: Path) -> None:
    one, two = (write_folder(tmp_path / name, weights(i)) for i, name in enumerate("ab"))
    args = ("merge", one, two, "--method", "linear", "--weight", "0.5")
    for folder, token in ((one, "b"), (two, "c")):
        vocab = {"model": {"vocab": {"a": 0, token: 1}}}
        (folder / "tokenizer.json").write_text(json.dumps(vocab))
    done = cli(*args)
    assert done.exit_code == 2
    assert "different vocabularies: 'b' is number 1 and not there" in done.err
    (two / "tokenizer.json").write_text("{")
    assert cli(*args).exit_code == 7
    (two / "tokenizer.json").unlink()
    short = weights(3)
    short["lm_head.weight"] = short["lm_head.weight"][:80]
    other = write_folder(tmp_path / "short", short)
    done = cli("merge", two, other, "--method", "linear", "--weight", "0.5")
    assert "different sizes: lm_head.weight is 96x64 and 80x64" in done.err
    done = cli("merge", one, tiny_gguf, "--method", "linear", "--weight", "0.5")
    assert done.exit_code == 2
    assert "cannot be merged with each other" in done.err
    done = cli(*args, "--type", "Q4_K_M")
    assert done.exit_code == 2
    assert "localllm quantize" in done.err
    missing = weights(4)
    del missing["model.layers.1.mlp.up_proj.weight"]
    other = write_folder(tmp_path / "missing", missing)
    done = cli("merge", other, one, "--method", "linear", "--weight", "0.5")
    assert "only the latter has model.layers.1.mlp.up_proj.weight" in done.err


def seeing(**inner: Any) -> dict[str, Any]:
    """A configuration as of a model that sees: the language model's facts are apart."""
    own = config_of()
    outer = {key: own.pop(key) for key in ("architectures", "model_type")}
    return {**outer, "text_config": {**own, "layer_types": ["full", "sliding", "full"], **inner}}


def test_facts_of_the_language_model_are_compared_one_by_one(cli: Cli, tmp_path: Path) -> None:
    one = write_folder(tmp_path / "a", weights(1), config=seeing())
    args = ("--method", "linear", "--weight", "0.5", "--dry-run")
    free = {"torch_dtype": "bfloat16", "max_position_embeddings": 256, "eos_token_id": 7}
    done = cli("merge", one, write_folder(tmp_path / "b", weights(2), config=seeing(**free)), *args)
    assert done.exit_code == 0, done
    assert "max_position_embeddings is 128" in done.err
    assert "eos_token_id is not set in" in done.err
    turned = seeing(layer_types=["sliding", "full", "full"])
    done = cli("merge", one, write_folder(tmp_path / "c", weights(2), config=turned), *args)
    assert done.exit_code == 2
    assert "text_config.layer_types is ['full'" in done.err


def test_layer_types_of_one_depth_are_compared(cli: Cli, tmp_path: Path) -> None:
    found = []
    for name, kinds in (("a", ["full", "sliding", "full"]), ("b", ["sliding", "full", "full"])):
        config = config_of(layer_types=kinds)
        found.append(write_folder(tmp_path / name, weights(1), config=config))
    plain = write_folder(tmp_path / "old", weights(2))  # an older program wrote none
    args = ("--method", "linear", "--weight", "0.5", "--dry-run")
    done = cli("merge", *found, *args)
    assert done.exit_code == 2
    assert "layer_types is" in done.err
    assert cli("merge", found[0], plain, *args).exit_code == 0
