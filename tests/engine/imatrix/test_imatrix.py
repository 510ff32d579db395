"""What the collector sums: against llama-imatrix's files, and against sums made here."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from localllm.engine import tensors
from localllm.engine.context import Context
from localllm.engine.imatrix.graph import expert_squares, squares_of
from localllm.engine.imatrix.imatrix import (
    Chunks,
    Collector,
    Sums,
    batch_size,
    chunks_of,
    collect,
)
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.engine.tensors import Tensor
from localllm.errors import DamagedFile, UsageProblem
from localllm.formats.gguf import read_header
from localllm.formats.imatrix import read_imatrix
from tests.imatrix.models import CHUNK_SIZE, FIXTURES, TEXT, small_llama, small_moe
from tests.support.tiny_models import tiny_bert, tiny_gemma3, tiny_mamba


def run(
    path: Path,
    text: str,
    *,
    n_ctx: int = CHUNK_SIZE,
    n_batch: int = 0,
    output: bool = False,
    watch: list[bytes] | None = None,
    n_chunks: int | None = None,
) -> tuple[dict[str, Sums], Chunks]:
    """The sums of `text` by the collector. `watch` gets the names of the nodes computed."""
    collector = Collector(output=output)

    def hook(address: int, ask: bool) -> bool:
        if watch is not None and ask:
            watch.append(bytes(Tensor.from_address(address).name))
        return collector.hook(address, ask)

    size = n_batch or batch_size(n_ctx)
    with Model.load(path) as model:
        options = ContextOptions(
            n_ctx=max(n_ctx, 256), n_batch=size, n_ubatch=size, n_threads=1, eval_hook=hook
        )
        context = Context(model, options)
        chunks = chunks_of(model.tokenizer.encode(text), n_ctx, model.tokenizer).first(n_chunks)
        numbers: list[int] = []
        collect(context, collector, chunks, 0, numbers.append)
        assert numbers == list(range(len(chunks)))
    return collector.entries, chunks


def fixture_text() -> str:
    return TEXT.read_text(encoding="utf-8").removesuffix("\n")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize(("name", "write"), [("llama", small_llama), ("moe", small_moe)])
def test_the_same_as_llama_imatrix(name: str, write: object, tmp_path: Path) -> None:
    made, chunks = run(write(tmp_path / "m.gguf"), fixture_text())  # type: ignore[operator]
    theirs = read_imatrix(FIXTURES / f"{name}.imatrix.gguf")
    assert set(made) == set(theirs.entries)
    assert len(chunks) == theirs.chunk_count
    for tensor, entry in theirs.entries.items():
        # Another processor's rounding may send a token to another expert once in a while.
        assert np.abs(made[tensor].counts - entry.counts).sum() <= 0.01 * entry.counts.sum()
        assert cosine(made[tensor].squares, entry.squares) > 0.9999


def weights(path: Path, name: str) -> np.ndarray:
    """An F32 tensor of the file, the contiguous dimension last."""
    header = read_header(path)
    info = header.tensors[name]
    start = header.data_offset + info.offset
    raw = path.read_bytes()[start : start + info.size_bytes]
    return np.frombuffer(raw, "<f4").reshape(info.shape[::-1]).astype(np.float64)


def test_the_first_layers_inputs_by_hand(tmp_path: Path) -> None:
    """What goes into q, k and v of layer 0 is the embedding after RMS norm: computed here from
    the file's own numbers."""
    path = small_llama(tmp_path / "m.gguf", n_layer=1)
    made, chunks = run(path, fixture_text())
    x = weights(path, "token_embd.weight")[chunks.tokens.reshape(-1)]
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
    x = x * weights(path, "blk.0.attn_norm.weight")
    for name in ("attn_q", "attn_k", "attn_v"):
        sums = made[f"blk.0.{name}.weight"]
        assert np.allclose(sums.squares, (x * x).sum(axis=0), rtol=1e-5)
        assert sums.counts.tolist() == [chunks.tokens.size]


def test_the_tied_embedding_by_the_hidden_states(tmp_path: Path) -> None:
    """The output's input is what the engine gives out as each token's embedding."""
    path = tiny_gemma3(tmp_path / "g.gguf", n_layer=2)
    made, chunks = run(path, fixture_text(), output=True, n_chunks=3)
    total = np.zeros(256)
    with Model.load(path) as model:
        options = ContextOptions(
            n_ctx=256, n_batch=128, n_ubatch=128, n_threads=1, embeddings=True, pooling="none"
        )
        context = Context(model, options)
        llama = context._llama
        for chunk in chunks.tokens:
            context.clear()
            context.prefill(chunk.tolist())
            for place in range(chunk.size):
                row = np.ctypeslib.as_array(
                    llama.llama_get_embeddings_ith(context.handle, place), (256,)
                )
                total += row.astype(np.float64) ** 2
    assert np.allclose(made["token_embd.weight"].squares, total, rtol=1e-4)
    assert made["token_embd.weight"].counts.tolist() == [chunks.tokens.size]


def test_without_being_asked_the_output_is_left_out_and_not_computed(tmp_path: Path) -> None:
    watched: list[bytes] = []
    made, chunks = run(small_llama(tmp_path / "m.gguf"), fixture_text(), watch=watched)
    assert not {"output.weight", "token_embd.weight"} & set(made)
    assert len(chunks) > 5
    assert watched.count(b"result_norm") == len(chunks) + 1  # and the first look at the graph
    assert watched.count(b"result_output") == 1


def test_cutting_the_graph_short_changes_no_number(tmp_path: Path) -> None:
    """The first chunk alone, which a second one does not alter, and pieces of a chunk."""
    path = small_llama(tmp_path / "m.gguf")
    whole, _ = run(path, fixture_text(), n_chunks=1, output=True)
    pieces, _ = run(path, fixture_text(), n_chunks=1, output=True, n_batch=32)
    assert set(whole) == set(pieces)
    for name, sums in whole.items():
        assert np.allclose(sums.squares, pieces[name].squares, rtol=2e-3), name
        assert (sums.counts == pieces[name].counts).all()


@pytest.mark.parametrize("write", [tiny_mamba, tiny_bert])
def test_models_of_other_kinds(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")  # type: ignore[operator]
    made, chunks = run(path, fixture_text(), n_chunks=2)
    products = {n for n in read_header(path).tensors if n.startswith("blk.") and ".weight" in n}
    assert made
    assert set(made) <= products
    assert {int(s.counts[0]) for s in made.values()} == {chunks.tokens.size}


def test_numbers_that_are_none_name_the_tensor(tmp_path: Path) -> None:
    path = small_llama(tmp_path / "m.gguf")
    header = read_header(path)
    info = header.tensors["blk.1.ffn_norm.weight"]
    with path.open("r+b") as file:
        file.seek(header.data_offset + info.offset)
        file.write(struct.pack("<f", float("nan")))
    with pytest.raises(DamagedFile, match=r"into blk\.1\.ffn_(up|gate)\.weight is not finite"):
        run(path, fixture_text(), n_chunks=1)


def test_going_on_from_another_models_sums(tmp_path: Path) -> None:
    made, _ = run(small_llama(tmp_path / "a.gguf", n_embd=128), fixture_text(), n_chunks=1)
    with Model.load(small_llama(tmp_path / "b.gguf")) as model:
        collector = Collector(entries=made)
        options = ContextOptions(
            n_ctx=256, n_batch=128, n_ubatch=128, n_threads=1, eval_hook=collector.hook
        )
        context = Context(model, options)
        chunks = chunks_of(model.tokenizer.encode(fixture_text()), 128, model.tokenizer)
        with pytest.raises(UsageProblem, match="of another model"):
            collect(context, collector, chunks, 0, lambda number: None)


def test_chunks_begin_with_bos_where_the_vocabulary_does(tmp_path: Path) -> None:
    with Model.load(small_llama(tmp_path / "m.gguf", vocab="spm")) as model:
        tokenizer = model.tokenizer
        assert tokenizer.adds_bos
        tokens = tokenizer.encode(fixture_text())
        chunks = chunks_of(tokens, 100, tokenizer)
    assert len(chunks) == len(tokens) // 100
    assert set(chunks.tokens[:, 0].tolist()) == {tokenizer.bos}
    assert chunks.tokens[1, 1:].tolist() == tokens[101:200]


@pytest.mark.parametrize(
    ("n_ctx", "pieces"), [(512, [512]), (16, [16]), (520, [260, 260]), (2048, [512] * 4)]
)
def test_no_piece_of_a_chunk_is_too_short_to_count(n_ctx: int, pieces: list[int]) -> None:
    size = batch_size(n_ctx)
    assert [min(size, n_ctx - start) for start in range(0, n_ctx, size)] == pieces


@pytest.mark.parametrize("shared", [True, False])
def test_experts_by_brute_force(shared: bool) -> None:
    random = np.random.default_rng(7)
    n_tokens, n_slots, n_inputs, n_experts = 23, 3, 5, 4
    x = random.normal(size=(1, n_tokens, 1 if shared else n_slots, n_inputs)).astype(np.float32)
    ids = np.array([random.permutation(3)[:n_slots] for _ in range(n_tokens)], np.int32)
    squares, counts = expert_squares(x, ids[None, None], n_experts, "t")
    expected = np.zeros((n_experts, n_inputs))
    for token in range(n_tokens):
        for slot in range(n_slots):
            expected[ids[token, slot]] += x[0, token, 0 if shared else slot].astype(float) ** 2
    assert np.allclose(squares, expected, rtol=1e-5)
    assert counts.tolist() == [int((ids == e).sum()) for e in range(n_experts)]
    assert counts[3] == 0


def test_several_matrices_take_turns_by_brute_force() -> None:
    x = np.random.default_rng(3).normal(size=(4, 6, 7, 5)).astype(np.float32)
    expected = np.zeros((2 * 3, 5))
    for i3 in range(4):
        for i2 in range(6):
            expected[(i3 % 2) * 3 + i2 % 3] += (x[i3, i2].astype(float) ** 2).sum(axis=0)
    assert np.allclose(squares_of(x, (2, 3)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"blk.0.attn_k.weight", "blk.0.attn_k.weight"),
        (b"CUDA0#blk.0.attn_k.weight#0", "blk.0.attn_k.weight"),
        (b"CPU#blk.0.attn_k.weight", "blk.0.attn_k.weight"),
        (b"", ""),
    ],
)
def test_names_of_copies(raw: bytes, name: str) -> None:
    """filter_tensor_name of llama.cpp's imatrix.cpp."""
    assert tensors.weight_name(raw) == name


def test_the_layout_of_a_tensor_is_known() -> None:
    tensors.check_layout()
