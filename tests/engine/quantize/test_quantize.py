"""Quantizing: the file that comes out, read by an independent reader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.ftypes import FTYPES, TENSOR_TYPES, Ftype, ftype, tensor_type
from localllm.engine.model import Model
from localllm.engine.quantize.quantize import QuantizeOptions, TensorPlan, plan_quantize, quantize
from localllm.errors import DamagedFile, DiskFull, EngineError, FileGone, UsageProblem
from tests.support.tiny_models import llama_model, split, tiny_llama


def types_of(path: Path) -> dict[str, str]:
    from gguf import GGUFReader

    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def sizes_of(path: Path) -> dict[str, int]:
    from gguf import GGUFReader

    return {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}


def test_types_and_sizes_are_what_the_report_says(llama_path: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "量子 化.gguf", list[TensorPlan]()
    report = quantize(llama_path, out, QuantizeOptions("Q4_K_M", n_threads=1), seen.append)
    assert report.outputs == (out,)
    assert {plan.name: plan.to_type.upper() for plan in report.tensors} == types_of(out)
    assert {plan.name: plan.after_bytes for plan in report.tensors} == sizes_of(out)
    assert {plan.name: plan.before_bytes for plan in report.tensors} == sizes_of(llama_path)
    assert report.after_bytes == sum(sizes_of(out).values()) < report.before_bytes
    assert tuple(seen) == report.tensors
    assert [plan.number for plan in seen] == list(range(1, len(seen) + 1))
    assert {plan.total for plan in seen} == {len(seen)}
    assert set(types_of(out).values()) == {"F32", "Q4_K", "Q6_K"}
    with Model.load(out) as model:
        assert model.info.file_type == "Q4_K - Medium"
        assert report.n_params == model.info.n_params
        assert report.bits_per_weight == pytest.approx(
            model.info.size_bytes * 8 / model.info.n_params
        )
    assert report.elapsed_s > 0


def test_a_plan_is_the_same_and_writes_nothing(llama_path: Path, tmp_path: Path) -> None:
    options = QuantizeOptions("Q5_K_S", n_threads=1)
    before = sorted(tmp_path.iterdir()), sorted(llama_path.parent.iterdir())
    plan = plan_quantize(llama_path, options)
    assert (sorted(tmp_path.iterdir()), sorted(llama_path.parent.iterdir())) == before
    done = quantize(llama_path, tmp_path / "out.gguf", options)
    assert plan.outputs == ()
    assert plan.tensors == done.tensors


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q4_0", "IQ4_XS", "Q2_K", "TQ2_0", "BF16", "F32"])
def test_recipes(llama_path: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.gguf"
    quantize(llama_path, out, QuantizeOptions(name, n_threads=1))
    assert ftype(name).base.upper() in types_of(out).values()


def test_copy_changes_nothing(llama_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize(llama_path, out, QuantizeOptions("copy", n_threads=1))
    assert types_of(out) == types_of(llama_path)


def test_types_of_ones_choice(llama_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    options = QuantizeOptions(
        "Q4_K_M",
        output_type="Q8_0",
        token_embedding_type="q5_0",
        tensor_types=((r"^blk\.1\.attn_v\.weight$", "q6_K"), (r"ffn_down", "f16")),
        metadata={"general.name": "mine", "localllm.test": 7},
        n_threads=1,
    )
    quantize(llama_path, out, options)
    found = types_of(out)
    assert found["output.weight"] == "Q8_0"
    assert found["token_embd.weight"] == "Q5_0"
    assert found["blk.1.attn_v.weight"] == "Q6_K"
    assert found["blk.0.ffn_down.weight"] == found["blk.1.ffn_down.weight"] == "F16"
    assert found["blk.0.ffn_up.weight"] == "Q4_K"
    with Model.load(out) as model:
        assert (model.meta("general.name"), model.meta("localllm.test")) == ("mine", "7")


def test_pure_and_leave_output(llama_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize(llama_path, out, QuantizeOptions("Q4_K_M", pure=True, n_threads=1))
    assert set(types_of(out).values()) == {"Q4_K", "F32"}
    quantize(llama_path, out, QuantizeOptions("Q4_K_M", leave_output=True, n_threads=1))
    assert types_of(out)["output.weight"] == "F16"


def test_rows_that_do_not_divide_fall_back_and_are_reported(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "odd.gguf", n_embd=192, n_ff=512)
    out = tmp_path / "out.gguf"
    report = quantize(source, out, QuantizeOptions("Q4_K_M", n_threads=1))
    found = types_of(out)
    assert report.fallbacks
    for fallback in report.fallbacks:
        assert (fallback.row_length, fallback.block_length) == (192, 256)
        assert found[fallback.tensor].lower() == fallback.used.lower()
        assert fallback.wanted in ("q4_K", "q6_K")
    odd = {name for name, kind in found.items() if kind in ("Q5_0", "Q8_0")}
    # the output has a rule of its own for such rows, and is not counted
    assert {f.tensor for f in report.fallbacks} == odd - {"output.weight"}


def test_split_models(tmp_path: Path) -> None:
    shards = split(llama_model, tmp_path, "big", n_shards=2)
    one = quantize(shards[0], tmp_path / "one.gguf", QuantizeOptions("Q8_0", n_threads=1))
    assert one.outputs == (tmp_path / "one.gguf",)
    kept = quantize(
        shards[1], tmp_path / "kept", QuantizeOptions("Q8_0", keep_split=True, n_threads=1)
    )
    assert [path.name for path in kept.outputs] == [
        "kept-00001-of-00002.gguf",
        "kept-00002-of-00002.gguf",
    ]
    with Model.load(kept.outputs[0]) as model:
        assert model.info.file_type == "Q8_0"


def test_requantizing_is_asked_for(llama_path: Path, tmp_path: Path) -> None:
    small, out = tmp_path / "small.gguf", tmp_path / "out.gguf"
    quantize(llama_path, small, QuantizeOptions("Q6_K", n_threads=1))
    with pytest.raises(UsageProblem, match=r"small\.gguf is quantized already \(q6_K\)"):
        quantize(small, out, QuantizeOptions("Q3_K_M", n_threads=1))
    assert not out.exists()
    quantize(small, out, QuantizeOptions("Q3_K_M", allow_requantize=True, n_threads=1))
    assert "Q3_K" in types_of(out).values()


@pytest.mark.parametrize("name", [one.name for one in FTYPES if one.needs_imatrix])
def test_recipes_that_need_an_imatrix_say_so(llama_path: Path, tmp_path: Path, name: str) -> None:
    assert plan_quantize(llama_path, QuantizeOptions(name, n_threads=1)).needs_imatrix
    with pytest.raises(UsageProblem, match=f"{name} needs an importance matrix"):
        quantize(llama_path, tmp_path / "out.gguf", QuantizeOptions(name, n_threads=1))
    assert list(tmp_path.glob("out*")) == []


def test_the_numbers_are_ggufs() -> None:
    import gguf

    for one in FTYPES:
        if not one.copies:
            prefix = "ALL_" if one.name == "F32" else "MOSTLY_"
            constant = getattr(gguf.LlamaFileType, prefix + one.name, None)
            assert constant is None or constant == one.number, one.name
    for name, number in TENSOR_TYPES.items():
        known = getattr(gguf.GGMLQuantizationType, name.upper(), None)
        assert known is None or known == number, name


@pytest.mark.parametrize("one", FTYPES[1:-1:6], ids=lambda one: one.name)
def test_the_base_is_what_most_tensors_get(llama_path: Path, one: Ftype) -> None:
    plan = plan_quantize(llama_path, QuantizeOptions(one.name, pure=True, n_threads=1))
    assert {t.to_type for t in plan.tensors} - {"f32"} == {one.base}


def test_names() -> None:
    assert ftype("q4_k").name == "Q4_K_M"
    assert ftype("Q5_K").name == "Q5_K_M"
    assert tensor_type("Q6_K") == 14
    with pytest.raises(UsageProblem, match="did you mean Q4_K_M"):
        ftype("Q4KM")
    with pytest.raises(UsageProblem, match="no tensor type"):
        tensor_type("zzz")


def test_refusals(llama_path: Path, tmp_path: Path) -> None:
    options = QuantizeOptions("Q8_0", n_threads=1)
    with pytest.raises(FileGone, match="no file"):
        quantize(tmp_path / "nope.gguf", tmp_path / "out.gguf", options)
    with pytest.raises(FileGone, match="no folder"):
        quantize(llama_path, tmp_path / "nope" / "out.gguf", options)
    with pytest.raises(UsageProblem, match="is the source itself"):
        quantize(llama_path, llama_path, options)
    with pytest.raises(UsageProblem, match="no tensor type"):
        quantize(llama_path, tmp_path / "out.gguf", QuantizeOptions("Q8_0", output_type="q9"))
    with pytest.raises(UsageProblem, match="regular expression"):
        bad = QuantizeOptions("Q4_K_M", tensor_types=(("[", "q4_0"),), n_threads=1)
        quantize(llama_path, tmp_path / "out.gguf", bad)
    assert list(tmp_path.glob("out*")) == []


def test_damaged_sources(llama_path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    whole = llama_path.read_bytes()
    for keep in (10, 1000, len(whole) - 100_000):
        cut.write_bytes(whole[:keep])
        with pytest.raises(DamagedFile, match=r"cut\.gguf is damaged"):
            quantize(cut, tmp_path / "out.gguf", QuantizeOptions("Q8_0", n_threads=1))
    assert not (tmp_path / "out.gguf").exists()


def test_a_native_crash_is_one_line(llama_path: Path, tmp_path: Path) -> None:
    """No layers at all makes llama.cpp assert; the process that dies is not ours."""
    model = llama_model()
    model.metadata["llama.attention.head_count"] = model.metadata["llama.block_count"]
    source = model.write(tmp_path / "odd.gguf")
    options = QuantizeOptions("Q8_0", token_embedding_type="iq1_s", n_threads=1)
    with pytest.raises((EngineError, UsageProblem, DamagedFile)) as caught:
        quantize(source, tmp_path / "out.gguf", options)
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(llama_path: Path, tmp_path: Path) -> None:
    link = tmp_path / "out.gguf"
    link.symlink_to("/dev/full")
    with pytest.raises((DiskFull, EngineError), match=r"cannot be written|no room"):
        quantize(llama_path, link, QuantizeOptions("Q8_0", n_threads=1))
    assert Path("/dev/full").exists()


def test_an_exception_in_the_callback_stops_the_child(llama_path: Path, tmp_path: Path) -> None:
    def stop(plan: TensorPlan) -> None:
        raise LookupError(plan.name)

    with pytest.raises(LookupError):
        quantize(llama_path, tmp_path / "out.gguf", QuantizeOptions("Q8_0", n_threads=1), stop)
    assert not (tmp_path / "out.gguf").exists()


PROGRAM = """
import sys, time
from pathlib import Path
from localllm.engine.quantize.quantize import QuantizeOptions, quantize
def slow(plan):
    print(plan.number, flush=True)
    time.sleep(60)
quantize(Path(sys.argv[1]), Path(sys.argv[2]), QuantizeOptions("Q8_0", n_threads=1), slow)
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_in_the_middle(llama_path: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C leaves no file; a kill leaves no child."""
    out = tmp_path / "out.gguf"
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(llama_path), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"1\n"
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    child = int(children.read_text().split()[0]) if children.exists() else None
    parent.send_signal(number)
    parent.communicate(timeout=20)
    if number == signal.SIGINT:
        assert not out.exists()
    if child is not None:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{child}").exists()


def test_what_native_code_prints_is_no_event(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a debugger is installed, a dying ggml starts it, and it prints to stdout."""
    from localllm.engine.quantize import process as quantize_process

    def noisy(*args: object, **more: Any) -> subprocess.Popen[str]:
        command = list(args[0])  # type: ignore[call-overload]
        command[2] = command[2].replace(
            "; main()",
            "; import ctypes, localllm.engine.quantize.child as c; serve = c._serve\n"
            "def loud(*a):\n    ctypes.CDLL(None).puts(b'[New LWP 1]'); serve(*a)\n"
            "c._serve = loud; main()",
        )
        return popen(command, **more)

    popen = subprocess.Popen
    monkeypatch.setattr(quantize_process.subprocess, "Popen", noisy)
    options = QuantizeOptions("Q8_0", n_threads=1)
    assert quantize(llama_path, tmp_path / "out.gguf", options).tensors


def test_killed_by_the_system_memory_is_named(llama_path: Path, tmp_path: Path) -> None:
    from localllm.engine.quantize.quantize import Quantizer

    with Quantizer() as quantizer:

        def kill(plan: TensorPlan) -> None:
            quantizer._child._child.kill()

        options = QuantizeOptions("Q8_0", n_threads=1, max_buffer_bytes=1)
        with pytest.raises(EngineError, match="killed") as caught:
            quantizer.quantize(llama_path, tmp_path / "out.gguf", options, kill)
            quantizer.plan(llama_path, options)
    assert "--max-memory" in (caught.value.hint or "")
