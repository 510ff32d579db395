"""The context's own doings: the eval hook, memory, abort."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from localllm.engine import native
from localllm.engine.context import Context, ContextFull
from localllm.engine.model import Model
from localllm.engine.options import LoadOptions
from localllm.errors import EngineError, Interrupted
from tests.engine.conftest import MakeContext

PROMPT = [298, 104, 101, 300, 5, 6, 7]


def tensor_name(address: int) -> str:
    name: Callable[[int], bytes] = native.ggml("ggml_get_name", ctypes.c_char_p, ctypes.c_void_p)
    return name(address).decode()


def test_the_eval_hook_sees_every_node_and_the_data_it_asks_for(
    llama: Model, make_context: MakeContext
) -> None:
    asked: list[str] = []
    seen: dict[str, np.ndarray] = {}

    def hook(tensor: int, ask: bool) -> bool:
        name = tensor_name(tensor)
        if ask:
            asked.append(name)
            return name == "result_output"
        size: int = native.ggml("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)(tensor)
        data = (ctypes.c_char * size)()
        native.ggml(
            "ggml_backend_tensor_get", None, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_size_t, ctypes.c_size_t,
        )(tensor, data, 0, size)  # fmt: skip
        seen[name] = np.frombuffer(bytes(data), dtype=np.float32)
        return True

    context = make_context(llama, eval_hook=hook)
    context.prefill(PROMPT)
    assert {"Qcur-0", "ffn_out-1", "result_norm", "result_output"} <= set(asked)
    assert set(seen) == {"result_output"}
    np.testing.assert_array_equal(seen["result_output"], context.logits())


@pytest.mark.parametrize("n", [7, 100])
def test_what_the_hook_raises_comes_out(
    llama: Model, make_context: MakeContext, capfd: pytest.CaptureFixture[str], n: int
) -> None:
    wrong = [True]

    def hook(tensor: int, ask: bool) -> bool:
        if wrong[0]:
            raise LookupError(tensor_name(tensor))
        return False

    context = make_context(llama, eval_hook=hook)
    with pytest.raises(LookupError):
        context.prefill((PROMPT * 20)[:n])
    assert capfd.readouterr() == ("", "")
    wrong[0] = False
    context.clear()
    context.prefill(PROMPT)
    plain = make_context(llama)
    plain.prefill(PROMPT)
    np.testing.assert_allclose(context.logits(), plain.logits(), atol=1e-4)


def test_memory_is_counted_and_cut(llama: Model, mamba: Model, make_context: MakeContext) -> None:
    context = make_context(llama)
    assert context.length() == 0
    context.prefill(PROMPT)
    assert context.length() == 7
    assert context.truncate(9) == 7
    assert context.truncate(3) == 3 == context.length()
    context.clear()
    assert context.length() == 0
    recurrent = make_context(mamba)
    recurrent.prefill(PROMPT)
    assert recurrent.truncate(3) == 0 == recurrent.length()


def test_abort_holds_until_armed(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama)
    context.abort()
    for _ in range(2):
        with pytest.raises(Interrupted):
            context.prefill(PROMPT)
    assert context.length() == 0
    context.arm()
    context.prefill(PROMPT)
    assert context.length() == 7


def test_more_than_the_memory_holds(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=256)
    context.prefill([5] * 250)
    with pytest.raises(ContextFull, match="the context of 256 tokens is full"):
        context.prefill([5] * 20)
    assert context.length() == 250


def test_a_batch_that_llama_cpp_refuses_says_why(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama)
    with pytest.raises(EngineError, match=r"could not decode: .*(invalid token|token\[0\])"):
        context.prefill([10**6])


def test_no_logits_yet(llama: Model, make_context: MakeContext) -> None:
    with pytest.raises(EngineError, match="no logits"):
        make_context(llama).logits()


def test_cache_types_change_little(llama: Model, make_context: MakeContext) -> None:
    plain, small = make_context(llama), make_context(llama, type_k="q8_0", type_v="q8_0")
    for context in (plain, small):
        context.prefill(PROMPT)
    difference = np.abs(plain.logits() - small.logits()).max()
    assert 0 < difference < 0.5


def test_a_simulated_allocation_measures_without_memory(llama_path: Path) -> None:
    from localllm.engine.options import ContextOptions

    with Model.load(llama_path, LoadOptions(no_alloc=True)) as model, native.capture() as log:
        Context(model, ContextOptions(n_ctx=512, n_threads=1)).close()
    assert "compute buffer size" in log.text()
