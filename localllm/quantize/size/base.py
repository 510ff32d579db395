"""The original as it is run while types are tried on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import DiskFull, DoesNotFit, EngineError, Interrupted
from localllm.placement import open_model
from localllm.quantize.plan import FLOATS, Request
from localllm.quantize.recipe import Recipe
from localllm.quantize.search.live import LiveWeights
from localllm.quantize.search.trial import KnownAnswers, Trial
from localllm.quantize.search.weights import Weights
from localllm.quantize.size.judge import plan_options
from localllm.quantize.size.text import JUDGE, SEARCH, WHOLE, Contexts, Texts, contexts_of
from localllm.quantize.source import Source
from localllm.registry import Registry
from localllm.ui import Bytes, Sink

if TYPE_CHECKING:
    from localllm.engine.context import Context
    from localllm.engine.quality.chunks import Chunk
    from localllm.quantize.importance import Vectors

# Quantized tensors that are kept, as a share of the model's bytes: IQ types take far longer to
# make than the model takes to run. More than the least only of memory that is there.
_KEPT_LEAST, _KEPT_MOST, _KEPT_OF_FREE = 0.3, 1.5, 0.25
_INT8 = ("i8", "i16", "i32", "i64")


@dataclass(frozen=True, eq=False)
class Base:
    """The loaded original: `trial` changes it, and has the contexts to search with. `whole` are
    those to compare whole choices by, `judged_by` those of the final judgment."""

    trial: Trial
    whole: KnownAnswers
    judged_by: KnownAnswers

    def measure(self, types: Mapping[str, str]) -> float:
        """The mean divergence of a choice on the search's contexts, nats a token."""
        return self.trial.measure(types).mean.value

    def measure_whole(self, types: Mapping[str, str]) -> float:
        """The same on more of them."""
        return self.trial.measure(types, self.whole).mean.value


@contextmanager
def float_copy(source: Source, registry: Registry, sink: Sink, n_threads: int) -> Iterator[Path]:
    """A file of the source whose weights are floats, so that any type can be written into it
    once it is loaded: the source itself, or a half-precision copy for as long as the block
    runs. The copy lies with other unfinished work, where `prune` finds what a kill leaves.

    Raises DiskFull before anything is written, and what quantizing raises.
    """
    if all(t.type.name.lower() in (*FLOATS, *_INT8) for t in source.gguf.tensors.values()):
        yield source.path
        return
    from localllm.engine.quantize.quantize import Quantizer
    from localllm.quantize.plan import engine_options, make_plan

    request = Request(Recipe("F16"), allow_requantize=True, n_threads=n_threads)
    key = f"float copy {source.path.resolve()}"
    with registry.lock(key, lambda: sink.note("another process searches this model; waiting")):
        copy = registry.partial(key, f"{source.path.stem}.f16.gguf")
        copy.unlink(missing_ok=True)  # what a killed process left
        try:
            with Quantizer() as quantizer:
                plan = make_plan(source, request, quantizer)
                free = shutil.disk_usage(copy.parent).free
                needed = plan.after_bytes + source.stamps[0].size_bytes // 16
                if free < needed:
                    raise DiskFull(
                        f"{copy.parent} has {Bytes(free)} free; searching needs a half-precision "
                        f"copy of {Bytes(needed)}",
                        "localllm prune, or --quick, which needs none",
                    )
                with sink.progress.bytes("half-precision copy", plan.before_bytes) as advance:
                    quantizer.quantize(
                        source.path, copy, engine_options(source, request),
                        lambda tensor: advance(tensor.before_bytes),
                    )  # fmt: skip
            yield copy
        finally:
            copy.unlink(missing_ok=True)


@contextmanager
def opened_base(
    path: Path,
    vectors: Vectors,
    texts: Texts,
    n_threads: int,
    sink: Sink,
    contexts: tuple[Contexts, Contexts, Contexts] = (SEARCH, WHOLE, JUDGE),
) -> Iterator[Base]:
    """Load the float file at `path` into memory of its own (its whole size, not mapped) and
    compute what it answers to the texts: for searching, for comparing whole choices and for
    judging, as many contexts as `contexts` says, in this order.

    Raises DoesNotFit, EngineError (models that generate no text), UsageProblem (texts too
    short), and what loading raises.
    """
    from localllm.engine.options import ContextOptions

    weights = Weights(path)
    live = LiveWeights(n for n, t in weights.model.tensors.items() if len(t.shape) > 1)
    size = max(contexts, key=lambda c: c.n_ctx)
    with ExitStack() as stack:
        with sink.progress.bytes(f"load {path.name}", _size(weights)) as advance:
            try:
                opened = stack.enter_context(
                    open_model(
                        path,
                        plan_options(size, mmap=False),
                        context=ContextOptions(
                            n_threads=n_threads, eval_hook=live.hook, op_offload=False
                        ),
                        advance=advance,
                    )
                )
            except DoesNotFit as error:
                raise DoesNotFit(error.message, "--quick chooses without running it") from None
        for advice in opened.advice:
            sink.note(advice.message + (f" ({advice.hint})" if advice.hint else ""))
        tokenizer = opened.model.tokenizer
        search, whole = (contexts_of(texts.search, tokenizer, size) for size in contexts[:2])
        judge = contexts_of(texts.judge, tokenizer, contexts[2])
        with sink.progress.steps("answers of the original", 3) as advance:
            trial = stack.enter_context(
                _trial(weights, live, opened.context, search, vectors, opened.context.n_threads)
            )
            advance(1)
            known = []
            for chunks in (whole, judge):
                known.append(trial.judged_by(chunks))
                advance(1)
        yield Base(trial, *known)


def _trial(
    weights: Weights,
    live: LiveWeights,
    context: Context,
    chunks: tuple[Chunk, ...],
    vectors: Vectors,
    n_workers: int,
) -> Trial:
    from localllm.hardware import detect

    size, free = _size(weights), detect().memory.available_bytes
    kept = max(_KEPT_LEAST * size, min(_KEPT_MOST * size, _KEPT_OF_FREE * free))
    try:
        return Trial(weights, live, context, chunks, vectors, n_workers, kept)
    except Interrupted:
        raise
    except EngineError as error:  # a model that generates nothing
        raise EngineError(error.message, "--quick chooses without running it") from None


def _size(weights: Weights) -> int:
    return sum(t.size_bytes for t in weights.model.tensors.values())
