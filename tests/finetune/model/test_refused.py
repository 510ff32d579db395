"""What cannot be loaded is refused from its header: one line, the right class, before torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy")

from localllm.errors import DamagedFile, EngineError, FileGone, LocalLLMError, UsageProblem
from localllm.finetune.model import check_source, load_causal
from tests.support.gguf_writer import U32, T, Val
from tests.support.tiny_builder import TinyModel
from tests.support.tiny_models import (
    llama_model,
    tiny_bert,
    tiny_gemma3,
    tiny_llama,
    tiny_lora,
    tiny_mamba,
    tiny_qwen3moe,
)


def refused(path: Path, kind: type[LocalLLMError], words: str) -> None:
    for call in (check_source, load_causal):
        with pytest.raises(kind, match=words) as caught:
            call(path)
        assert type(caught.value) is kind
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 300


def changed(
    path: Path, *, drop: str = "", metadata: Mapping[str, Any] | None = None, **more: Any
) -> Path:
    """A tiny llama with a tensor left out or of another shape, or other keys."""
    model = llama_model(metadata=metadata, **more)
    model.tensors = [one for one in model.tensors if one[0].name != drop]
    return model.write(path)


def with_tensor(path: Path, name: str, shape: tuple[int, ...]) -> Path:
    model = llama_model()
    n = 4
    for one in shape:
        n *= one
    model.tensors = [one for one in model.tensors if one[0].name != name]
    model.tensors.append((T(name, shape, "F32"), bytes(n)))
    return model.write(path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    refused(tiny_lora(path), UsageProblem, "is an adapter, not a model")
    refused(tiny_bert(path), UsageProblem, "is an embedding model: it writes no text")
    TinyModel({"general.architecture": "clip", "general.type": "mmproj"}).write(path)
    refused(path, UsageProblem, "is a mmproj file")
    pooled = changed(path, metadata={"llama.pooling_type": U32(1)})
    refused(pooled, UsageProblem, "is an embedding model")
    both_ways = changed(path, metadata={"llama.attention.causal": Val("bool", False)})
    refused(both_ways, UsageProblem, "is an embedding model")
    refused(tmp_path / "none.gguf", FileGone, "does not exist")


def test_families_and_features(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    refused(tiny_mamba(path), EngineError, "'mamba' cannot be trained")
    with pytest.raises(EngineError) as caught:
        check_source(path)
    assert "llama, qwen2, qwen3" in (caught.value.hint or "")
    refused(tiny_qwen3moe(path), EngineError, "'qwen3moe' cannot be trained")
    experts = {"llama.expert_count": U32(4), "llama.expert_used_count": U32(2)}
    refused(changed(path, metadata=experts), EngineError, "mixtures of experts")
    refused(
        changed(path, metadata={"llama.rope.dimension_count": U32(32)}), EngineError,
        "rope on 32 of 64",
    )  # fmt: skip
    scaled = {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": Val("f32", 4.0)}
    refused(changed(path, metadata=scaled), EngineError, "position scaling 'longrope'")
    refused(with_tensor(path, "blk.0.attn_sinks.weight", (4,)), EngineError, "has no place in")
    long = with_tensor(path, "rope_factors_long.weight", (32,))
    refused(long, EngineError, "'rope_factors_long.weight' has no place in")
    half = with_tensor(path, "blk.0.attn_q.bias", (256,))
    refused(half, EngineError, "biases on some of its attention tensors only")


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    refused(changed(path, drop="blk.1.ffn_up.weight"), DamagedFile, "no tensor blk.1.ffn_up")
    refused(changed(path, drop="token_embd.weight"), DamagedFile, "no token embedding")
    refused(
        with_tensor(path, "blk.0.attn_k.weight", (256, 64)), DamagedFile,
        r"attn_k\.weight has the shape \(256, 64\) and should have \(256, 128\)",
    )  # fmt: skip
    tiny_llama(path)
    path.write_bytes(path.read_bytes()[:-200])
    refused(path, DamagedFile, "cut short|beyond|past the end|ends")
    path.write_bytes(b"not a model")
    refused(path, DamagedFile, "not a GGUF")
    refused(changed(path, metadata={"llama.attention.head_count": U32(0)}), DamagedFile, "sense")
    refused(changed(path, metadata={"llama.block_count": U32(5)}), DamagedFile, "no tensor blk.2")
    lies = {"llama.block_count": U32(4_000_000_000)}
    refused(changed(path, metadata=lies), DamagedFile, "4000000000 layers of 21 tensors")
    for base in (0.0, 1.0, -3.0, float("nan")):
        lies = {"llama.rope.freq_base": Val("f32", base)}
        refused(changed(path, metadata=lies), DamagedFile, "rope of base")
    lies = {"llama.rope.dimension_count": U32(0)}
    refused(changed(path, metadata=lies), DamagedFile, "rope on 0 of 64")


def test_folders(tmp_path: Path) -> None:
    from tests.support.tiny_hf import tiny_hf, tiny_hf_adapter

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", FileGone, "no safetensors")
    refused(tiny_hf_adapter(tmp_path / "lora"), UsageProblem, "is an adapter, not a model")
    bare = tiny_hf(tmp_path / "bare")
    (bare / "config.json").unlink()
    refused(bare, DamagedFile, "no model_type")
    cut = tiny_hf(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(cut, DamagedFile, "bytes")


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    path = tiny_gemma3(tmp_path / "g.gguf")
    with pytest.raises(UsageProblem, match="no type to compute in"):
        load_causal(path, dtype="int8")
    with pytest.raises(UsageProblem, match="quantized weights cannot be trained"):
        load_causal(path, frozen="quantized", trainable="all")


def test_refusing_imports_no_torch(tmp_path: Path) -> None:
    """A header is milliseconds, torch is seconds."""
    path = tiny_mamba(tmp_path / "m.gguf")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from localllm.errors import EngineError\n"
        "from localllm.finetune.model import load_causal\n"
        "try:\n    load_causal(Path(sys.argv[1]))\n"
        "except EngineError:\n    pass\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
