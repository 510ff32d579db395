"""Buffers read from llama.cpp's log, against its own accounting of the same objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.engine.context import Context
from localllm.engine.logs import LogLevel, LogLine
from localllm.engine.memory import BufferUse, buffers_of
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions, LoadOptions
from tests.support import native_truth
from tests.support.tiny_models import tiny_gemma3, tiny_llama, tiny_mamba

ROUNDING_BYTES = 10486  # llama.cpp's log rounds each line to 0.01 MiB
MIB = 1 << 20


def lines(*texts: str) -> list[LogLine]:
    return [LogLine(LogLevel.INFO, text) for text in texts]


def test_every_kind_of_line_and_the_names_of_every_backend() -> None:
    found = buffers_of(
        lines(
            "load_tensors:   CPU_Mapped model buffer size =   202.39 MiB",
            "load_tensors:  CUDA0 model buffer size =    1000.00 MiB",
            "load_tensors:  CUDA0 model buffer size =    24.00 MiB",
            "llama_context:  CUDA_Host  output buffer size =     1.00 MiB",
            "llama_kv_cache_iswa: creating non-SWA KV cache, size = 4096 cells",
            "llama_kv_cache:    CUDA0 KV buffer size =     3.50 MiB",
            "llama_kv_cache:    CUDA0 KV buffer size =     1.50 MiB",
            "llama_kv_cache: size =    5.00 MiB (   512 cells,   4 layers,  1/1 seqs)",
            "llama_memory_recurrent: RPC0[127.0.0.1:50552] RS buffer size =     2.00 MiB",
            "sched_reserve:    CUDA0 compute buffer size =     8.00 MiB",
            "sched_reserve:    CUDA0 compute buffer size =     6.00 MiB",
            "~llama_context:    CUDA0 compute buffer size is   6.0000 MiB, matches expectation",
        )
    )
    assert found == (
        BufferUse("CPU_Mapped", weights_bytes=round(202.39 * MIB)),
        BufferUse("CUDA0", 1024 * MIB, 5 * MIB, 6 * MIB),  # the graph reserved last counts
        BufferUse("CUDA_Host", output_bytes=MIB),
        BufferUse("RPC0[127.0.0.1:50552]", context_bytes=2 * MIB),
    )


@pytest.mark.skipif(not native_truth.available(), reason="needs llama_get_memory_breakdown")
@pytest.mark.parametrize("kind", ["llama", "gemma3", "mamba"])
def test_the_log_says_what_llama_cpp_accounts(kind: str, tmp_path: Path) -> None:
    build = {"llama": tiny_llama, "gemma3": tiny_gemma3, "mamba": tiny_mamba}[kind]
    options = ContextOptions(n_ctx=1024, n_seq_max=2)
    with (
        Model.load(build(tmp_path / "m.gguf"), LoadOptions(mmap=False)) as model,
        Context(model, options) as context,
    ):
        truth = native_truth.breakdown(context.handle)
        found = {b.name: b for b in (*model.buffers, *context.buffers)}
        for name, real in truth.items():
            mine = [b for b in (*model.buffers, *context.buffers) if b.name == name]
            for field, exact in (
                ("weights_bytes", real.model),
                ("context_bytes", real.context),
                ("compute_bytes", real.compute),
            ):
                said = sum(getattr(b, field) for b in mine)
                assert abs(said - exact) <= 2 * ROUNDING_BYTES, (name, field, said, exact)
        assert {n for n, b in found.items() if b.weights_bytes} <= set(truth)
        logits = 4 * model.info.n_vocab * 2
        assert abs(sum(b.output_bytes for b in found.values()) - logits) <= ROUNDING_BYTES
