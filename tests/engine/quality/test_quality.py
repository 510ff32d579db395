"""Models judged: against naive float64, against llama-perplexity, streamed and from a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.engine.quality.chunks import Chunk, chunks_of
from localllm.engine.quality.file import ReferenceFile, ReferenceWriter
from localllm.engine.quality.quality import Comparison, Judge, kld_sample
from localllm.engine.quality.rows import Reference
from localllm.errors import DamagedFile, EngineError, UsageProblem
from tests.engine.conftest import MakeContext, ctrl_c
from tests.support.quality_models import TEXT, base_model, broken, candidate

N_CTX = 128


@pytest.fixture(scope="module")
def base(folder: Path) -> Iterator[Model]:
    with Model.load(base_model(folder / "base.gguf")) as model:
        yield model


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[Model]:
    with Model.load(candidate(folder / "small.gguf")) as model:
        yield model


@pytest.fixture(scope="module")
def chunks(base: Model) -> tuple[Chunk, ...]:
    return chunks_of(base.tokenizer.encode(TEXT.removesuffix("\n")), N_CTX, base.tokenizer.bos)


def test_figures_are_those_of_a_naive_loop(
    make_context: MakeContext, base: Model, small: Model, chunks: tuple[Chunk, ...]
) -> None:
    nll, kld, same = [], [], []
    contexts = make_context(base), make_context(small)
    for chunk in chunks[:3]:
        for c in contexts:
            c.clear()
        for position, token in enumerate(chunk.tokens[:-1]):
            logs = []
            for c in contexts:
                c.prefill([token])
                x = c.logits().astype(np.float64)
                logs.append(x - x.max() - np.log(np.exp(x - x.max()).sum()))
            if position >= chunk.first:
                p, q = logs
                kept = p > -16
                nll.append(-q[chunk.targets[position - chunk.first]])
                kld.append((np.exp(p[kept]) * (p - q)[kept]).sum())
                same.append(p.argmax() == q.argmax())
    with Judge(contexts[0]) as judge, Comparison(contexts[1]) as comparison:
        comparison.feed(chunks[:1], judge.references(chunks[:1]))
        comparison.feed(chunks[1:3], judge.references(chunks[1:3]))
        figures = comparison.figures()
    d = figures.divergence
    assert d is not None
    assert (figures.n_chunks, figures.n_tokens) == (3, len(nll))
    # batches and single tokens take different kernels, which round f16 sums differently
    assert np.log(figures.perplexity.value) == pytest.approx(np.mean(nll), rel=2e-3)
    assert d.mean_kld.value == pytest.approx(np.mean(kld), rel=1e-2)
    assert d.same_top.value == pytest.approx(np.mean(same), abs=0.02)
    assert np.mean(figures.chunk_kld) == pytest.approx(d.mean_kld.value)


def page(name: str) -> dict[str, tuple[float, float]]:
    """Value and error by name, of what llama-perplexity printed."""
    text = (Path(__file__).parents[1] / "data" / name).read_text("utf-8")
    return {
        " ".join(name.split()): (float(value), float(error or 0))
        for name, value, error in re.findall(
            r"^ *(.+?) *: *(-?[\d.]+)%?(?: ± *([\d.]+))?", text, re.MULTILINE
        )
    }


def test_figures_are_llama_perplexitys(
    make_context: MakeContext, base: Model, small: Model, chunks: tuple[Chunk, ...]
) -> None:
    """What `llama-perplexity --kl-divergence` printed for these models and this text."""
    printed = page("llama_perplexity_tiny.txt")
    with Judge(make_context(base, n_ctx=N_CTX)) as judge:
        references = judge.references(chunks)
    with Comparison(make_context(small, n_ctx=N_CTX)) as comparison:
        comparison.feed(chunks, references)
        figures = comparison.figures()
    d = figures.divergence
    assert d is not None
    assert d.as_stored.correlation is not None
    ours = {
        "Mean PPL(Q)": figures.perplexity,
        "Mean PPL(base)": d.as_stored.base_perplexity,
        "Mean ln(PPL(Q)/PPL(base))": d.as_stored.ln_ratio,
        "Mean PPL(Q)/PPL(base)": d.as_stored.ratio,
        "Mean PPL(Q)-PPL(base)": d.as_stored.difference,
        "Mean KLD": d.mean_kld,
    }
    for name, estimate in ours.items():
        found = (estimate.value, estimate.standard_error)
        assert found == pytest.approx(printed[name], rel=1e-3, abs=1e-6), name
    spreads = {
        "Maximum": "maximum", "99.9%": "p99_9", "99.0%": "p99", "95.0%": "p95", "90.0%": "p90",
        "Median": "median", "10.0%": "p10", "5.0%": "p5", "1.0%": "p1", "0.1%": "p0_1",
        "Minimum": "minimum",
    }  # fmt: skip
    for theirs, field in spreads.items():
        kld, change = printed[f"{theirs} KLD"][0], printed[f"{theirs} Δp"][0]
        assert getattr(d.kld, field) == pytest.approx(kld, rel=1e-3, abs=1e-6), theirs
        assert 100 * getattr(d.p_diff, field) == pytest.approx(change, rel=1e-3, abs=1.01e-3)
    for name, estimate in (("Mean Δp", d.mean_p_diff), ("RMS Δp", d.rms_p_diff),
                           ("Same top p", d.same_top)):  # fmt: skip
        value, error = printed[name]
        assert 100 * estimate.value == pytest.approx(value, rel=1e-3, abs=6e-4)
        assert 100 * (estimate.standard_error or 0) == pytest.approx(error, rel=1e-2, abs=6e-4)
    assert 100 * d.as_stored.correlation == pytest.approx(printed["Cor(ln(PPL(Q)), ln(PPL(base)))"][0], abs=6e-3)  # fmt: skip  # noqa: E501


def test_perplexity_alone_is_the_same(
    make_context: MakeContext, small: Model, base: Model, chunks: tuple[Chunk, ...]
) -> None:
    context = make_context(small)
    with Judge(make_context(base)) as judge, Comparison(context) as against:
        references = judge.references(chunks[:8])
        against.feed(chunks[:8], references)
    with Comparison(context) as alone:
        alone.feed(chunks[:8])
        assert alone.figures().perplexity == against.figures().perplexity
        assert alone.figures().divergence is None
        assert alone.running()[1] is None
        with pytest.raises(UsageProblem):
            alone.feed(chunks[:8], references)


def test_a_sample_for_searching_is_one_pass_over_few_contexts(
    make_context: MakeContext, base: Model, small: Model
) -> None:
    tokens = base.tokenizer.encode(TEXT)
    few = chunks_of(tokens, 64, base.tokenizer.bos, n_scored=8, limit=12)
    with Judge(make_context(base)) as judge:
        references = judge.references(few)
    assert sum(len(r) for r in references) == 96
    context = make_context(small)
    sample = kld_sample(context, few, references)
    with Comparison(context) as comparison:
        comparison.feed(few, references)
    d = comparison.figures().divergence
    assert d is not None
    assert sample.mean == d.mean_kld
    assert sample.of_chunks == comparison.figures().chunk_kld
    assert kld_sample(make_context(base), few, references).mean.value == 0.0


def test_another_vocabulary_cannot_be_compared(
    make_context: MakeContext, base: Model, spm: Model, chunks: tuple[Chunk, ...]
) -> None:
    with Judge(make_context(base)) as judge:
        references = judge.references(chunks[:1])
    with Comparison(make_context(spm)) as comparison, pytest.raises(UsageProblem, match="tokens"):
        comparison.feed(chunks[:1], references)


def test_nan_is_named_with_its_chunk(
    make_context: MakeContext, folder: Path, chunks: tuple[Chunk, ...]
) -> None:
    with Model.load(broken(folder / "broken.gguf")) as model:
        context = make_context(model)
        with Comparison(context) as comparison:
            with pytest.raises(DamagedFile, match=r"broken\.gguf computes NaN at chunk 2"):
                comparison.feed(chunks[1:3])
            assert comparison.n_chunks == 0
            with pytest.raises(UsageProblem):
                comparison.figures()
        with Judge(context) as judge, pytest.raises(DamagedFile):
            judge.references(chunks[:1])
        context.close()


def test_embedding_models_are_refused(make_context: MakeContext, bert: Model) -> None:
    with pytest.raises(EngineError, match="does not generate text"):
        Comparison(make_context(bert, embeddings=True))


def test_ctrl_c_leaves_the_figures_so_far(
    make_context: MakeContext, small: Model, chunks: tuple[Chunk, ...]
) -> None:
    with Comparison(make_context(small)) as comparison:
        with pytest.raises(KeyboardInterrupt), ctrl_c(0.3):
            for _ in range(10_000):
                comparison.feed(chunks[:1])
        n = comparison.n_chunks
        assert 0 < n < 10_000
        assert comparison.figures().n_chunks == n
        comparison.feed(chunks[:1])


@pytest.mark.model
def test_a_real_model_has_llama_perplexitys_figures(real_gguf: Path) -> None:
    """Gemma 3 270M against itself with a q4_0 cache: `llama-perplexity -c 128 --chunks 4`, with
    `-ctk q4_0 -ctv q4_0` the second time. 262,144 tokens of vocabulary."""
    printed = page("llama_perplexity_gemma.txt")
    sizes = ContextOptions(n_ctx=512, n_batch=512, n_ubatch=512, n_seq_max=4)
    with Model.load(real_gguf) as model:
        tokens = model.tokenizer.encode(TEXT.removesuffix("\n"))
        chunks = chunks_of(tokens, N_CTX, model.tokenizer.bos, limit=4)
        with Context(model, sizes) as context, Judge(context) as judge:
            references = judge.references(chunks)
        assert sum(r.n_bytes for r in references) < 252 * 262_144  # a quarter of the logits
        small = replace(sizes, type_k="q4_0", type_v="q4_0")
        with Context(model, small) as context, Comparison(context) as comparison:
            comparison.feed(chunks, references)
            figures = comparison.figures()
    d = figures.divergence
    assert d is not None
    for name, estimate in (
        ("Mean PPL(Q)", figures.perplexity),
        ("Mean PPL(base)", d.as_stored.base_perplexity),
        ("Mean ln(PPL(Q)/PPL(base))", d.as_stored.ln_ratio),
        ("Mean KLD", d.mean_kld),
    ):
        found = (estimate.value, estimate.standard_error)
        assert found == pytest.approx(printed[name], rel=1e-3, abs=1e-5), name
    assert d.kld.p99 == pytest.approx(printed["99.0% KLD"][0], rel=1e-3)
    assert 100 * d.same_top.value == pytest.approx(printed["Same top p"][0], abs=6e-4)


# --- the file -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(
    folder: Path, base: Model, chunks: tuple[Chunk, ...]
) -> tuple[Path, tuple[Reference, ...]]:
    from tests.engine.conftest import ONE_THREAD

    path = folder / "base.figures"
    with Context(base, ONE_THREAD) as context, Judge(context) as judge:
        references = judge.references(chunks[:4])
        with ReferenceWriter(path, {"base": "b"}, [3, 1, 4]) as writer:
            for one in references:
                writer.add([one])
                assert not path.exists()
            writer.finish()
    return path, references


def test_a_file_gives_back_what_was_written(
    file: tuple[Path, tuple[Reference, ...]], base: Model
) -> None:
    path, written = file
    read = ReferenceFile(path)
    assert (read.tokens, read.about["base"]) == ((3, 1, 4), "b")
    found = list(read.references(base.info.n_vocab))
    assert len(found) == len(written) == 4
    for one, other in zip(found, written, strict=True):
        for name in ("offsets", "ids", "logits", "normalizer", "nll", "floored_nll", "top"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    assert list(path.parent.glob("*.part")) == []


def test_an_interrupted_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ReferenceWriter(tmp_path / "x", {}, [1]):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "cut in the header", "other", "empty", "ids", "bytes"])
def test_a_damaged_file_is_named(
    file: tuple[Path, tuple[Reference, ...]], tmp_path: Path, damage: str, base: Model
) -> None:
    content = bytearray(file[0].read_bytes())
    header = 16 + int.from_bytes(content[8:16], "little") + 12
    changed = {
        "cut": content[: len(content) // 2],
        "cut in the header": content[:20],
        "other": b"GGUF" + content[4:],
        "empty": b"",
        "ids": content[: header + 1000] + b"\xff" * 400 + content[header + 1400 :],
        "bytes": content[:header] + b"\xff" * 16 + content[header + 16 :],
    }[damage]
    path = tmp_path / "damaged"
    path.write_bytes(changed)
    with pytest.raises(DamagedFile, match=re.escape(str(path))):
        list(ReferenceFile(path).references(base.info.n_vocab))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_names_the_file_and_leaves_nothing(
    file: tuple[Path, tuple[Reference, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ReferenceWriter(tmp_path / "x", {}, [1])
    monkeypatch.setattr(writer, "_file", Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(OSError, match="No space left") as caught, writer:
        writer.add(file[1] * 20)
    assert caught.value.filename == str(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
