"""The dry run: what a context would take, asked of llama.cpp without allocating it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from localllm.engine import native, reserve
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.repack import repacks
from localllm.errors import DamagedFile, EngineError, FileGone, UsageProblem
from tests.support import native_truth
from tests.support.gguf_writer import U32, write_sparse
from tests.support.real_hybrids import HYBRIDS
from tests.support.real_shapes import SHAPES, write

MIB = 1 << 20
CPU = LoadOptions(devices=())  # no GPU, whatever this build has


def test_a_sparse_file_of_any_size_is_measured_in_a_child(tmp_path: Path):
    path = write(SHAPES["llama3.1-70b"](), tmp_path)
    found = reserve.reserve(path, CPU, ContextOptions(n_ctx=8192))
    # 80 layers of 8 heads of 128 numbers, K and V, two bytes each
    assert found.kv_bytes == 80 * 2 * 8 * 128 * 2 * 8192
    assert found.layers == ("CPU",) * 81
    assert (found.n_ctx, found.n_ctx_seq, found.flash_attn) == (8192, 8192, True)
    cpu = found.on("CPU")
    assert cpu.output_bytes == pytest.approx(128256 * 4, abs=0.01 * MIB)  # one row of logits
    # at least the logits of a micro-batch of 512 tokens
    assert 128256 * 512 * 4 < cpu.compute_bytes < 1.2 * 128256 * 512 * 4


@pytest.mark.skipif(not native_truth.available(), reason="needs llama_get_memory_breakdown")
def test_the_child_says_what_llama_cpp_counts(tmp_path: Path):
    path = write(HYBRIDS["granite4-h-tiny"](n_layer=10), tmp_path)
    context = ContextOptions(n_ctx=4096, n_seq_max=2, n_ubatch=256)
    found = reserve.reserve(path, CPU, context)
    truth = native_truth.measure(path, n_ctx=4096, n_seq_max=2, n_ubatch=256, swa_full=False)
    cpu = truth.buffers["CPU"]
    assert found.compute_bytes == pytest.approx(cpu.compute, abs=0.01 * MIB)
    state = found.on("CPU").state_bytes
    assert found.kv_bytes + state == pytest.approx(cpu.context, abs=0.02 * MIB)


def test_options_reach_the_child(tmp_path: Path):
    path = write(SHAPES["gemma3-4b"](n_layer=6, n_vocab=4096), tmp_path)
    large = ContextOptions(n_ctx=8192, swa_full=True, flash_attn="off")
    small = ContextOptions(n_ctx=8192, type_k="q8_0", type_v="q8_0", n_ubatch=64)
    one, other = (reserve.reserve(path, CPU, c) for c in (large, small))
    assert (one.flash_attn, other.flash_attn) == (False, True)
    assert one.kv_bytes > 3 * other.kv_bytes
    assert one.compute_bytes > 8 * other.compute_bytes


# --- what goes wrong ----------------------------------------------------------------------


def test_errors_come_back_as_they_would_from_loading(tmp_path: Path):
    context = ContextOptions()
    with pytest.raises(FileGone, match=r"none\.gguf"):
        reserve.reserve(tmp_path / "none.gguf", CPU, context)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 40)
    with pytest.raises((DamagedFile, EngineError)) as caught:
        reserve.reserve(tmp_path / "cut.gguf", CPU, context)
    assert "\n" not in caught.value.message
    path = write(SHAPES["llama3.1-8b"](n_layer=1, n_vocab=64), tmp_path)
    with pytest.raises(UsageProblem, match="q9_9"):
        reserve.reserve(path, CPU, ContextOptions(type_k="q9_9"))
    with pytest.raises(UsageProblem, match="NOGPU7"):
        reserve.reserve(path, LoadOptions(devices=("NOGPU7",)), context)


def test_an_unknown_architecture_is_one_line(tmp_path: Path):
    metadata = {"general.architecture": "llama9000", "llama9000.block_count": U32(1)}
    path = write_sparse(tmp_path / "new.gguf", metadata, [])
    with pytest.raises(EngineError, match="llama9000") as caught:
        reserve.reserve(path, CPU, ContextOptions())
    assert "\n" not in caught.value.message


def test_a_header_that_llama_cpp_asserts_on_does_not_end_this_process(tmp_path: Path):
    """GGML_ASSERT(n_layer_all <= LLAMA_MAX_LAYERS) aborts whoever loads this."""
    metadata = {
        "general.architecture": "llama", "llama.context_length": U32(512),
        "llama.embedding_length": U32(64), "llama.block_count": U32(100_000),
    }  # fmt: skip
    path = write_sparse(tmp_path / "deep.gguf", metadata, [])
    with pytest.raises(EngineError, match=r"deep\.gguf") as caught:
        reserve.reserve(path, CPU, ContextOptions())
    assert "GGML_ASSERT" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path):
    path = write(SHAPES["llama3.1-8b"](n_layer=1, n_vocab=64), tmp_path)
    with pytest.raises(EngineError, match=r"within 0\.01 seconds"):
        reserve.reserve(path, CPU, ContextOptions(), timeout_s=0.01)


def test_nothing_in_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model's folder may come from anywhere: a json.py in it must not be imported."""
    path = write(SHAPES["llama3.1-8b"](n_layer=1, n_vocab=64), tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    assert reserve.reserve(path, CPU, ContextOptions(n_ctx=256)).n_ctx == 256


def test_measuring_allocates_no_weights(tmp_path: Path):
    """16 GB of weights and 1 GB of cache, in a process that may hold 3 GB."""
    if sys.platform != "linux":
        pytest.skip("RLIMIT_AS is Linux's")
    import resource
    import subprocess

    path = write(SHAPES["deepseek-v3"](n_layer=5), tmp_path)
    root = str(Path(__file__).resolve().parents[2])
    code = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from pathlib import Path\n"
        "from localllm.engine.reserve import reserve_here\n"
        "from localllm.engine.options import ContextOptions, LoadOptions\n"
        f"found = reserve_here(Path({str(path)!r}), LoadOptions(devices=()),"
        " ContextOptions(n_ctx=163840))\n"
        "print(found.kv_bytes)\n"
    )
    limit = 3 << 30

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limited
    )
    assert done.stdout.strip() == str(5 * 576 * 2 * 163840), done.stderr
    assert path.stat().st_size > 16e9


# --- the log ------------------------------------------------------------------------------

PIPELINED = """\
print_info: n_embd                = 4096
load_tensors: layer   0 assigned to device CUDA0, is_swa = 0
load_tensors: layer   1 assigned to device CUDA1, is_swa = 0
load_tensors: layer   2 assigned to device CUDA1, is_swa = 0
llama_context:  CUDA_Host  output buffer size =     0.49 MiB
llama_kv_cache: size =    1.00 MiB (   256 cells,   1 layers,  1/1 seqs), K (f16):    0.50 MiB
llama_kv_cache_iswa: creating     SWA KV cache, size = 768 cells
llama_kv_cache: size =    2.50 MiB (   768 cells,   1 layers,  1/1 seqs), K (f16):    1.25 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =     0.25 MiB
llama_context: pipeline parallelism enabled
sched_reserve:      CUDA0 compute buffer size =   164.04 MiB
sched_reserve:      CUDA1 compute buffer size =   196.05 MiB
sched_reserve:  CUDA_Host compute buffer size =    72.05 MiB
resolve_fused_ops: Flash Attention enabled
"""


def test_parts_of_the_log_add_up_by_device():
    found = reserve.parse(PIPELINED.splitlines(), 8192, 8192, 512)
    assert found.kv_bytes == 3.5 * MIB
    assert found.layers == ("CUDA0", "CUDA1", "CUDA1")
    assert found.on("CUDA0").state_bytes == 0.25 * MIB
    assert found.on("CUDA0").compute_bytes == round(164.04 * MIB)
    # the dry run counts the incoming hidden state once more for each of four copies
    assert found.on("CUDA1").compute_bytes == round(196.05 * MIB) - 4 * 512 * 4096 * 4
    assert found.on("CUDA_Host").compute_bytes == round(72.05 * MIB)
    assert found.on("CUDA7").compute_bytes == 0


# --- the CPU's own copies -----------------------------------------------------------------


def test_repacking_is_llama_cpps_own_answer(tmp_path: Path):
    """Q4_0 and F32 matrices of the same shape: what the answers say is what a load does."""
    if not native_truth.available():
        pytest.skip("needs llama_get_memory_breakdown")
    native.lib()
    for mix, number in (("Q4_0", 2), ("Q8_0", 8), ("F16", 1), ("Q4_K_M", 12), ("Q6_K", 14)):
        path = write(SHAPES["llama3.1-8b"](n_layer=1, n_vocab=64, mix=mix), tmp_path, mix)
        buffers = native_truth.measure(path, n_ctx=256).buffers
        assert repacks(number, 4096, 14336) == ("CPU_REPACK" in buffers or "AMX" in buffers), mix
    assert not repacks(0, 4096, 4096)
    assert not repacks(2, 4096, 4097)  # rows that no interleaving divides
