"""The bytes of every tensor: as ggml itself makes them, and as llama-quantize writes them.

Set LOCALLLM_LLAMA_QUANTIZE to the program of the same llama.cpp for the second comparison.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done
from tests.quantize.made import made_path, write_imatrix
from tests.support.gguf_writer import GGML_TYPES
from tests.support.tiny_builder import _ggml
from tests.support.tiny_models import tiny_llama, tiny_qwen3moe

Cli = Callable[..., Done]
TYPES = ["Q4_K_M", "Q8_0", "IQ4_XS", "Q2_K", "IQ3_XXS", "TQ2_0", "Q5_1", "IQ2_S", "Q6_K", "BF16"]


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("f16") / "tiny.gguf"
    return tiny_llama(path, n_layer=4, n_embd=256, n_ff=512)


def chunk(values: Any, kind: str, importance: Any | None) -> bytes:
    """ggml_quantize_chunk on all rows at once."""
    import numpy as np

    number, block, block_bytes = GGML_TYPES[kind]
    rows = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, values.shape[-1])
    out = ctypes.create_string_buffer(rows.size // block * block_bytes)
    floats = ctypes.POINTER(ctypes.c_float)
    weights = None if importance is None else importance.ctypes.data_as(floats)
    done = _ggml().ggml_quantize_chunk(
        ctypes.c_int(number), rows.ctypes.data_as(floats), out, ctypes.c_int64(0),
        ctypes.c_int64(rows.shape[0]), ctypes.c_int64(rows.shape[1]), weights,
    )  # fmt: skip
    assert done == len(out)
    return out.raw


@pytest.mark.parametrize("kind", ["Q4_K_M", "IQ3_XXS"])
@pytest.mark.parametrize("memory", [[], ["--max-memory", "1"]])
def test_tensors_are_what_ggml_makes_of_the_weights(
    cli: Cli, f16: Path, tmp_path: Path, kind: str, memory: list[str]
) -> None:
    import gguf

    vectors = write_imatrix(tmp_path / "i.gguf", f16)
    done = cli("quantize", f16, kind, "--imatrix", tmp_path / "i.gguf", *memory, "--json")
    assert done.exit_code == 0, done
    before = {t.name: t for t in gguf.GGUFReader(f16).tensors}
    after = gguf.GGUFReader(made_path(done)).tensors
    quantized = [t for t in after if t.tensor_type.name not in ("F32", "F16")]
    assert len(quantized) == 4 * 7 + 2
    for tensor in quantized:
        weights = before[tensor.name].data.astype("float32")
        expected = chunk(weights, tensor.tensor_type.name, vectors.get(tensor.name))
        assert tensor.data.tobytes() == expected, tensor.name


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", ["llama", "moe", "odd"])
def test_tensors_and_metadata_are_llama_quantizes(
    cli: Cli, tmp_path: Path, kind: str, shape: str
) -> None:
    source = tmp_path / "source.gguf"
    if shape == "moe":
        tiny_qwen3moe(source)
    else:
        tiny_llama(source, n_layer=3, n_embd=256 if shape == "llama" else 192, n_ff=512)
    write_imatrix(tmp_path / "i.gguf", source)
    compare(cli, source, kind, ["--imatrix", str(tmp_path / "i.gguf")])


OPTIONS = [
    ["--pure"],
    ["--tensor-type", "attn_v=q6_K", "--tensor-type", r"BLK\.1\.ffn_down_exps=iq4_xs"],
    ["--tensor-type", ".=mxfp4"],
    ["--output-tensor-type", "f16", "--token-embedding-type", "q2_k"],
    ["--leave-output-tensor"],
    ["--prune-layers", "0"],
    ["--override-kv", "general.name=str:a b=c:d", "--override-kv", "x.y=float:0.5"],
    ["--include-weights", "ffn"],
    ["--exclude-weights", "attn_q"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_options_do_what_llama_quantizes_do(cli: Cli, tmp_path: Path, options: list[str]) -> None:
    source = tiny_qwen3moe(tmp_path / "source.gguf")
    write_imatrix(tmp_path / "i.gguf", source)
    compare(cli, source, "Q4_K_M", ["--imatrix", str(tmp_path / "i.gguf"), *options])


def compare(cli: Cli, source: Path, kind: str, options: list[str]) -> None:
    program = os.environ.get("LOCALLLM_LLAMA_QUANTIZE")
    if not program:
        pytest.skip("LOCALLLM_LLAMA_QUANTIZE names no llama-quantize to compare with")
    reference = source.with_name("reference.gguf")
    command = [program, *options, str(source), str(reference), kind, "2"]
    subprocess.run(command, check=True, capture_output=True)
    theirs, ours = facts(reference), facts(made_path(cli("quantize", source, kind, *options,
                                                         "--json")))  # fmt: skip
    assert ours[0] == theirs[0]
    own = {key: v for key, v in ours[1].items() if not key.startswith("localllm.")}
    for key in ("quantize.imatrix.dataset", "quantize.imatrix.file"):  # ours have no folder
        assert own.pop(key) == Path(theirs[1].pop(key)).name
    assert own == theirs[1]


def facts(path: Path) -> tuple[dict[str, tuple[str, str]], dict[str, Any]]:
    """Type and digest of every tensor, and the metadata, by gguf's own reader."""
    import gguf

    reader = gguf.GGUFReader(path)
    digests = {
        t.name: (t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest())
        for t in reader.tensors
    }
    values = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return digests, values
