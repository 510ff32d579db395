"""Data as examples of tokens, with a report of all that was found on the way."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import DamagedFile, LocalLLMError, UsageProblem
from localllm.finetune.data.counting import Counts, by_chunk, report_of
from localllm.finetune.data.crew import Crew
from localllm.finetune.data.dataset import Dataset
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.digests import Fingerprints
from localllm.finetune.data.documents import Chunker
from localllm.finetune.data.encoding import Made, size_of
from localllm.finetune.data.lengths import fit, length_for
from localllm.finetune.data.report import DataReport, Problems
from localllm.finetune.data.rows import BadRow, Record, Text
from localllm.finetune.data.spec import EncodeOptions
from localllm.finetune.data.store import Builder, Examples, Pairs, Places
from localllm.finetune.data.templates import ChosenTemplate
from localllm.finetune.data.turns import Limits
from localllm.ui import Progress, Silent

_ROW_BYTES = 80  # names and marks around the texts of a row


@dataclass(frozen=True, eq=False)
class Prepared:
    """Examples, or pairs of them where rows are preferences (the other is empty then).

    `template` is what inference has to use: where `template.is_new` the result must bring it.
    """

    examples: Examples
    pairs: Pairs
    report: DataReport
    template: ChosenTemplate

    @property
    def is_pairs(self) -> bool:
        return len(self.pairs) > 0

    @property
    def rows(self) -> Examples | Pairs:
        """Whichever of the two there is."""
        return self.pairs if self.is_pairs else self.examples

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, which: Places) -> Prepared:
        """Those at `which`, places in `rows`; the report stays that of the whole."""
        if self.is_pairs:
            return Prepared(self.examples, self.pairs.select(which), self.report, self.template)
        return Prepared(self.examples.select(which), self.pairs, self.report, self.template)


def prepare(
    dataset: Dataset,
    dialect: Dialect,
    options: EncodeOptions | None = None,
    *,
    progress: Progress | None = None,
    scratch: Path | None = None,
    n_threads: int | None = None,
) -> Prepared:
    """Read every row of `dataset` and turn it into tokens.

    The result is the same whatever `n_threads` (None: the machine's cores; see `Crew`). Tokens
    lie in memory up to 256 MiB, beyond that in a temporary file in `scratch` (None: the system's
    place for such). Raises UsageProblem where nothing is left to learn from (every answer
    masked, every row too long), under `bad_rows` "error" DamagedFile for a row that cannot be
    used, and what reading raises.
    """
    options = options or EncodeOptions()
    limit = length_for(options, dialect)
    limits = Limits(options.loss, limit, options.system)
    work = _Work(dataset, dialect, options, limit, scratch)
    progress = progress or Silent()
    total = dataset.size_bytes
    rows = _limited(dataset.records(), dataset.spec.limit)
    crew = Crew(dialect, limits, options.overlong, n_threads)
    with (
        progress.bytes("prepare data", total or None) as advance,
        closing(crew.made(rows)) as found,
    ):
        left = total
        for made in found:
            work.take(made)
            # what a row takes in its file is not known, but about
            step = min(left, size_of(made.record) + _ROW_BYTES)
            left -= step
            advance(step)
        advance(left)
    return work.finish()


def _limited(records: Iterator[Record | BadRow], limit: int | None) -> Iterator[Record | BadRow]:
    n = 0
    for record in records:
        n += not isinstance(record, Text) or record.first
        if limit is not None and n > limit:
            return
        yield record


class _Work:
    """One pass over the rows, in their order."""

    def __init__(
        self, dataset: Dataset, dialect: Dialect, options: EncodeOptions, limit: int,
        scratch: Path | None,
    ) -> None:  # fmt: skip
        self.dataset, self.dialect, self.options, self.limit = dataset, dialect, options, limit
        self.prints, self.problems, self.n = Fingerprints(), Problems(), Counts()
        self.built, self.rejected = Builder(scratch), Builder(scratch)
        self.chunker = Chunker(dialect, limit)
        self.full_lengths = array("q")
        self.documents = 0
        self._begun = 0  # examples before the document that is being read

    def take(self, made: Made) -> None:
        record = made.record
        if isinstance(record, Text):
            self._text(record, made)
            return
        self.n.rows += 1
        if made.bad is not None:
            self._bad(made.bad)
            return
        assert not isinstance(record, BadRow)
        self.n.with_tools += bool(record.tools)
        if made.has_marks:
            self.n.odd_marks.append(record.at)
        group, repeats = self.prints.add(record)
        if repeats and self.dataset.spec.duplicates == "drop":
            self.n.dropped += 1
            return
        self.full_lengths.extend(len(one.ids) for one in made.sequences)
        if self.dataset.format == "preference":
            self._pair(made, group)
        else:
            self._chat(made, group)

    def _bad(self, bad: BadRow) -> None:
        if bad.kind == "empty":
            self.n.add_empty(bad.at)
            return
        if self.dataset.spec.bad_rows == "error":
            raise DamagedFile(f"{bad.at}: {bad.reason}", "mend it, or --bad-rows skip")
        self.problems.add(bad)

    def _chat(self, made: Made, group: int) -> None:
        at, found = made.record.at, made.sequences
        if made.parts is not None:
            self.n.split += len(made.parts) > len(found)
            found = made.parts
        fitted = fit(found, self.limit, self.options.overlong, at)
        self.n.truncated += bool(fitted.truncated)
        self.n.too_long += bool(fitted.dropped) and not fitted.sequences
        self.n.lost_tokens += fitted.lost_tokens
        self.n.lost_targets += fitted.lost_targets
        for one in fitted.sequences:
            self.built.add(one, group, at)

    def _pair(self, made: Made, group: int) -> None:
        at = made.record.at
        fitted = [fit([one], self.limit, self.options.overlong, at) for one in made.sequences]
        self.n.lost_tokens += sum(one.lost_tokens for one in fitted)
        self.n.lost_targets += sum(one.lost_targets for one in fitted)
        whole = [one.sequences[0] for one in fitted if one.sequences]
        if len(whole) < 2 or whole[0].ids == whole[1].ids:  # what differs was cut off
            self.n.too_long += 1
            return
        self.n.truncated += any(one.truncated for one in fitted)
        self.built.add(whole[0], group, at)
        self.rejected.add(whole[1], group, at)

    def _text(self, piece: Text, made: Made) -> None:
        if piece.first:
            self.n.rows += 1
            self._begun = len(self.built)
            if piece.last and not piece.text.strip():
                self.n.add_empty(piece.at)
                return
        for chunk in self.chunker.feed(piece, made.tokens or array("i")):
            self.built.add(chunk, 0, piece.at)
        found = self.prints.add_piece(piece)
        if found is None:
            return
        group, repeats = found
        if repeats and self.dataset.spec.duplicates == "drop":
            self.n.dropped += 1
            self.built.cut(self._begun)
            return
        self.documents += 1
        self.built.regroup(self._begun, group)

    # --- the end -------------------------------------------------------------------------

    def finish(self) -> Prepared:
        tokens = self.built.seal()
        if self.documents:
            tokens = by_chunk(tokens, self.documents)
        examples, rejected = Examples(tokens), Examples(self.rejected.seal())
        nothing = Examples(Builder().seal())
        pairs = Pairs(examples, rejected) if len(rejected) else Pairs(nothing, nothing)
        rows = pairs if len(pairs) else examples
        if not len(rows) or not rows.n_targets:
            raise self._nothing_left()
        report = report_of(
            rows, self.dataset, self.dialect, self.options, self.limit, self.n, self.prints,
            self.problems, self.full_lengths,
        )  # fmt: skip
        return Prepared(nothing if len(pairs) else examples, pairs, report, self.dialect.chosen)

    def _nothing_left(self) -> LocalLLMError:
        n, problems = self.n, self.problems.listed()
        if not n.rows:
            return UsageProblem("the data has no rows")
        if n.too_long:
            trained = self.dialect.n_ctx_train
            hint = f"a larger --max-length, up to {trained}" if trained else "a larger --max-length"
            if trained and self.limit >= trained:
                hint = "shorter rows: that is all the model was made for"
            return UsageProblem(f"no row has an answer within {self.limit} tokens", hint)
        if not problems:
            return UsageProblem(f"all {n.rows} rows are empty")
        first = problems[0]
        why = f"none of {n.rows} rows can be used; {first.n_rows}: {first.reason} ({first.rows[0]})"
        if first.kind in ("nothing counts", "no answer"):
            return UsageProblem(why, "nothing would be learned: see --learn")
        return DamagedFile(why, "mend the data")
