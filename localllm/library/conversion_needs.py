"""How much disk a conversion takes, before it starts."""

from __future__ import annotations

from pathlib import Path

_BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "tq1_0": 1.6875, "tq2_0": 2.0625,
    "auto": 16.0,
}  # fmt: skip


def estimated_bytes(folder: Path, out_type: str, kind: str) -> int:
    """About the size of the GGUF: matrices in the output type, vectors in F32, and the
    tokenizer's files once.

    The converter decides tensor by tensor, so this is no exact figure; a model whose
    weights are packed (GPTQ, MXFP4) comes out larger than its element count says.
    """
    from localllm.formats import read_safetensors_folder

    found = read_safetensors_folder(folder)
    bits = 0.0
    for tensor in found.tensors.values():
        wide = len([n for n in tensor.shape if n > 1]) > 1
        bits += tensor.n_elements * (_BITS[out_type] if wide else 32.0)
    vocabulary = 0
    if kind == "model":
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tekken.json")
        vocabulary = sum((folder / n).stat().st_size for n in names if (folder / n).is_file())
    return int(bits / 8) + vocabulary + (1 << 20)
