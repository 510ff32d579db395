"""Reference models for benchmarks/best_size.py, made from any GGUF.

    python benchmarks/best_size_model.py MODEL.gguf OUT.gguf [--pad 768] [--untie] [--seed 1]

Weights that were quantized once lie on that type's grid and flatter it: quantized again to the
same type they lose nothing. So uniform noise of plus and minus half the local step is added to
them; the result is written in F16. `--pad N` widens every row of the model's width to N with
zeros (gemma3 alone): the same function with rows that K and IQ types can take. A norm over N
numbers instead of n makes them sqrt(N/n) larger, and gemma3 multiplies its embeddings by
sqrt(N): both are taken back in the norms' weights and in the embedding. `--untie` stores the
output matrix on its own, with noise of its own, for models whose embedding serves as one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

# Numbers in a block that share a scale, and steps between its least and largest value.
GRIDS = {
    "Q4_K": (32, 15), "Q5_K": (32, 31), "Q6_K": (16, 63), "Q8_0": (32, 255), "Q5_0": (32, 31),
    "Q4_0": (32, 15), "Q4_1": (32, 15), "Q5_1": (32, 31), "Q3_K": (16, 7), "Q2_K": (16, 3),
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
# Which matrices of a gemma3 take the residual stream, and which add to it.
READS = ("attn_q.", "attn_k.", "attn_v.", "ffn_gate.", "ffn_up.")
WRITES = ("attn_output.", "ffn_down.")
SKIPPED = ("general.architecture", "general.file_type", "general.quantization_version")


def dithered(rows: Any, kind: str, rng: np.random.Generator) -> Any:
    if kind in FLOATS:
        return rows
    if kind not in GRIDS:
        raise SystemExit(f"the step of {kind} is not known here; take a K-quantized or F16 source")
    block, levels = GRIDS[kind]
    blocks = rows.reshape(-1, block)
    step = (blocks.max(1, keepdims=True) - blocks.min(1, keepdims=True)) / levels
    noise = rng.uniform(-0.5, 0.5, blocks.shape).astype(np.float32)
    return (blocks + noise * step).reshape(rows.shape)


def padded(name: str, rows: Any, width: int, to: int) -> Any:
    """One tensor of a gemma3 of `width`, in one of width `to`."""
    scale, more = np.float32(np.sqrt(width / to)), to - width
    if name in ("token_embd.weight", "output.weight"):
        return np.pad(rows * scale, ((0, 0), (0, more)))  # the output's is the last norm's
    if name.endswith("_norm.weight") and rows.shape[1] == width:
        return np.pad(rows * (1 if name == "output_norm.weight" else scale), ((0, 0), (0, more)))
    if any(part in name for part in READS):
        return np.pad(rows, ((0, 0), (0, more)))
    return np.pad(rows, ((0, more), (0, 0))) if any(part in name for part in WRITES) else rows


def make(source: Path, out: Path, pad: int | None, untie: bool, seed: int) -> None:
    import gguf

    from localllm.quantize.search.weights import Weights

    weights, rng = Weights(source), np.random.default_rng(seed)
    header = weights.model
    arch, width = header.architecture or "", header.arch_u32("embedding_length", 0)
    if pad is not None and arch != "gemma3":
        raise SystemExit("--pad knows gemma3 alone")
    writer = gguf.GGUFWriter(out, arch)
    for key, field in gguf.GGUFReader(source).fields.items():
        if key.startswith("GGUF.") or key in SKIPPED:
            continue
        value, kinds = field.contents(), field.types
        if key == f"{arch}.embedding_length" and pad is not None:
            value = pad
        writer.add_key_value(key, value, kinds[0], kinds[-1] if kinds[1:] else None)
    writer.add_file_type(1)
    names = list(header.tensors)
    if untie and "output.weight" not in names:
        names.append("output.weight")
    for name in names:
        stored = name if name in header.tensors else "token_embd.weight"
        info = header.tensors[stored]
        n_rows, _ = weights.shape(stored)
        rows = dithered(weights.stretch(stored, 0, n_rows), info.type.name, rng)
        if pad is not None:
            rows = padded(name, rows, width, pad)
        if len(info.shape) == 1:
            writer.add_tensor(name, np.ascontiguousarray(rows[0], dtype=np.float32))
            continue
        experts = tuple(reversed(info.shape[2:]))  # stacked matrices
        shape = (*experts, rows.shape[0] // max(1, int(np.prod(experts))), rows.shape[1])
        writer.add_tensor(name, np.ascontiguousarray(rows.reshape(shape), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pad", type=int)
    parser.add_argument("--untie", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    make(args.source, args.out, args.pad, args.untie, args.seed)


if __name__ == "__main__":
    main()
