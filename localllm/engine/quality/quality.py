"""How good a model is on a text, alone and against the model it was made from.

    chunks = chunks_of(tokens, 512, bos)
    with Judge(base.context) as judge, Comparison(small.context) as comparison:
        for chunk in chunks:
            comparison.feed([chunk], judge.references([chunk]))
        comparison.figures().divergence.mean_kld

A search that tries many candidates on the same few contexts computes the base once and keeps it
in memory; each candidate then costs one forward pass:

    references = judge.references(chunks)
    sample = kld_sample(candidate.context, chunks, references)

Base and candidate must have the same vocabulary. What a figure means: `figures`; what is
kept of a base: `rows.Reference`; on disk: `file`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from localllm.closing import Closing
from localllm.engine.context import Context
from localllm.engine.quality.chunks import Chunk, Rows, rows_of
from localllm.engine.quality.figures import Figures, TokenValues, exponential, figures_of
from localllm.engine.quality.interval import Estimate, mean_of
from localllm.engine.quality.rows import (
    Compared,
    Reference,
    RowWorkers,
    Scored,
    compare,
    joined,
    reference,
    score,
)
from localllm.errors import DamagedFile, UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


class Judge(Closing):
    """One context whose logits are judged. Closing it, or `with`, ends its threads; the context
    stays open.

    `n_threads` work through the logits, by default as many as the context computes with. Their
    buffers take 4 bytes times the vocabulary each. Raises EngineError for embedding models.
    """

    def __init__(self, context: Context, n_threads: int = 0) -> None:
        context.require_generation()
        self.context = context
        self.name = context.model.path.name
        self._workers = RowWorkers(n_threads or context.n_threads, context.model.info.n_vocab)

    def scores(self, chunks: Sequence[Chunk]) -> Iterator[Scored]:
        """Negative log-likelihoods of each chunk in turn. Raises DamagedFile for NaN, naming
        the chunk; and what `rows_of` raises. So do the others."""
        import numpy as np

        for chunk, parts in self._parts(chunks, self._score):
            whole = Scored(
                np.concatenate([part.nll for part in parts]),
                np.concatenate([part.top for part in parts]),
            )
            self._check(chunk, whole.nll)
            yield whole

    def references(self, chunks: Sequence[Chunk]) -> tuple[Reference, ...]:
        """What candidates are compared with, a reference a chunk."""
        found = []
        for chunk, parts in self._parts(chunks, self._reference):
            found.append(joined(parts))
            self._check(chunk, found[-1].nll)
        return tuple(found)

    def compared(
        self, chunks: Sequence[Chunk], references: Sequence[Reference]
    ) -> Iterator[Compared]:
        """This model against the base that `references` are of, each chunk in turn.

        Raises UsageProblem where the base has another number of tokens.
        """
        import numpy as np

        n_vocab = self.context.model.info.n_vocab
        for other in references:
            if other.n_vocab != n_vocab:
                raise UsageProblem(
                    f"{self.name} has {n_vocab} tokens, its base {other.n_vocab}: they cannot be "
                    "compared"
                )

        by_number = {c.number: r for c, r in zip(chunks, references, strict=True)}

        def against(rows: Rows) -> Compared:
            base = by_number[rows.chunk.number].part(rows.start, rows.start + len(rows.logits))
            return compare(self._workers, base, rows.logits, rows.targets)

        for chunk, parts in self._parts(chunks, against):
            whole = Compared(
                *(
                    np.concatenate([getattr(part, name) for part in parts])
                    for name in ("nll", "kld", "p_diff", "same_top")
                )
            )
            self._check(chunk, whole.nll)
            yield whole

    def close(self) -> None:
        self._workers.close()

    def _score(self, rows: Rows) -> Scored:
        return score(self._workers, rows.logits, rows.targets)

    def _reference(self, rows: Rows) -> Reference:
        return reference(self._workers, rows.logits, rows.targets)

    def _parts(
        self, chunks: Sequence[Chunk], work: Callable[[Rows], T]
    ) -> Iterator[tuple[Chunk, list[T]]]:
        """Each chunk with what `work` made of its rows."""
        parts: list[T] = []
        for rows in rows_of(self.context, chunks):
            parts.append(work(rows))
            if rows.start + len(rows.logits) == rows.chunk.n_scored:
                yield rows.chunk, parts
                parts = []

    def _check(self, chunk: Chunk, nll: NDArray[np.float64]) -> None:
        import numpy as np

        from localllm.engine.adapter import attached

        if np.isnan(nll).any() and attached(self.context):
            raise DamagedFile(
                f"{self.name} computes NaN at chunk {chunk.number} with its adapters: a scale is "
                "too large, or a file is damaged",
                "a smaller scale, --lora ADAPTER:1, then localllm verify MODEL",
            )
        if np.isnan(nll).any():
            raise DamagedFile(
                f"{self.name} computes NaN at chunk {chunk.number}: its weights are broken, or "
                "overflow this KV cache type",
                "try --kv f32, then localllm verify MODEL",
            )


class Comparison(Closing):
    """The figures of one model as chunk after chunk is fed, alone or against a base."""

    def __init__(self, context: Context, n_threads: int = 0) -> None:
        self.judge = Judge(context, n_threads)
        self._values: dict[str, list[NDArray[np.float64]]] = {}

    @property
    def n_chunks(self) -> int:
        """Chunks fed so far; one that was interrupted does not count."""
        return len(self._values.get("nll", []))

    def feed(self, chunks: Sequence[Chunk], references: Sequence[Reference] | None = None) -> None:
        """Compute `chunks` and add what they say. All with references, or all without; all of
        one length."""
        if references is None:
            for scored in self.judge.scores(chunks):
                self._add(nll=scored.nll)
            return
        for base, seen in zip(references, self.judge.compared(chunks, references), strict=True):
            self._add(
                nll=seen.nll, base_nll=base.nll, floored_nll=base.floored_nll, kld=seen.kld,
                p_diff=seen.p_diff, same_top=seen.same_top.astype(float),
            )  # fmt: skip

    def figures(self) -> Figures:
        """The figures of what was fed so far. Raises UsageProblem before the first chunk."""
        import numpy as np

        if not self.n_chunks:
            raise UsageProblem("nothing is measured yet")
        return figures_of(TokenValues(**{k: np.stack(v) for k, v in self._values.items()}))

    def running(self) -> tuple[float, float | None]:
        """Perplexity and mean KL divergence so far, without their errors."""
        nll, kld = self._values["nll"], self._values.get("kld")
        mean = sum(float(v.mean()) for v in nll) / len(nll)
        divergence = None if kld is None else sum(float(v.mean()) for v in kld) / len(kld)
        return exponential(mean), divergence

    def close(self) -> None:
        self.judge.close()

    def _add(self, **values: NDArray[np.float64]) -> None:
        known = self._values
        if known and set(known) != set(values):
            raise UsageProblem("one comparison is either against a base or without one")
        if known and len(known["nll"][0]) != len(values["nll"]):
            raise UsageProblem("the chunks of one comparison have one length")
        for name, own in values.items():
            known.setdefault(name, []).append(own)


@dataclass(frozen=True)
class KldSample:
    """A candidate's divergence from its base on some contexts, in nats a token: the mean, one
    mean a context for pairing candidates, and the candidate's own negative log-likelihood."""

    mean: Estimate
    of_chunks: tuple[float, ...]
    nll: float


def kld_sample(
    context: Context,
    chunks: Sequence[Chunk],
    references: Sequence[Reference],
    n_threads: int = 0,
) -> KldSample:
    """The divergence of `context`'s model from the base that `references` are of: one forward
    pass over `chunks`, which must all score as many positions."""
    import numpy as np

    with Judge(context, n_threads) as judge:
        seen = list(judge.compared(chunks, references))
    kld = np.stack([one.kld for one in seen])
    nll = float(np.mean([one.nll.mean() for one in seen]))
    return KldSample(mean_of(kld), tuple(float(mean) for mean in kld.mean(axis=1)), nll)
