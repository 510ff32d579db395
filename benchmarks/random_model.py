"""A Llama of random F16 weights, for timing what only copies or quantizes a large file.

    python benchmarks/random_model.py OUT.gguf [--layers 28]

The sizes of Llama 3.2 1B with a vocabulary of 32,000: 122 MB a layer and 262 MB beside them, so
28 layers make 3.7 GB. Every layer has the same numbers; it answers nothing of sense.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

WIDTH, FEED_FORWARD, HEADS, KV_HEADS, VOCABULARY = 2048, 8192, 32, 8, 32000
HEAD = WIDTH // HEADS


def write(out: Path, layers: int) -> None:
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_file_type(1)
    n_bytes = 256
    named = [b"t%d" % i for i in range(VOCABULARY - n_bytes - 3)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % i for i in range(n_bytes)), *named]
    )
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3, *[6] * n_bytes, *[1] * len(named)])
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns), dtype=np.float32) * 0.02).astype(np.float16)

    norm = np.ones(WIDTH, dtype=np.float32)
    layer = {
        "attn_norm": norm, "attn_q": matrix(WIDTH, WIDTH),
        "attn_k": matrix(KV_HEADS * HEAD, WIDTH), "attn_v": matrix(KV_HEADS * HEAD, WIDTH),
        "attn_output": matrix(WIDTH, WIDTH), "ffn_norm": norm,
        "ffn_gate": matrix(FEED_FORWARD, WIDTH), "ffn_up": matrix(FEED_FORWARD, WIDTH),
        "ffn_down": matrix(WIDTH, FEED_FORWARD),
    }  # fmt: skip
    writer.add_tensor("token_embd.weight", matrix(VOCABULARY, WIDTH))
    writer.add_tensor("output_norm.weight", norm)
    writer.add_tensor("output.weight", matrix(VOCABULARY, WIDTH))
    for number in range(layers):
        for name, values in layer.items():
            writer.add_tensor(f"blk.{number}.{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    given = parser.parse_args()
    write(given.out, given.layers)


if __name__ == "__main__":
    main()
