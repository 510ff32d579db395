"""From what was asked to a run that is decided: data, words, shape, steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from localllm.errors import DoesNotFit
from localllm.finetune.data import Dialect
from localllm.finetune.scratch import pace
from localllm.finetune.scratch import plan as plans
from localllm.finetune.scratch.corpus import DROPPED, HELD, TRAIN, Corpus
from localllm.finetune.scratch.encode import Encoding, encode, rows_of
from localllm.finetune.scratch.model import default_rate, write_words
from localllm.finetune.scratch.place import Place
from localllm.finetune.scratch.plan import Plan
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.finetune.scratch.result import Planned, Told
from localllm.finetune.scratch.shape import Shape, choose, smallest
from localllm.finetune.scratch.trial import Speed, try_shape
from localllm.finetune.scratch.words import default_size, learn_words
from localllm.finetune.training.precision import try_precisions
from localllm.ui import Bytes, Progress

TEMPLATE = "chatml"  # of models that learn conversations
_ROOM = 0.9  # of the memory that is free may be planned with
_LEFT = 1.2  # times the tokens that a run sees: of more text, some is drawn


@dataclass(frozen=True)
class Ready:
    """A run whose data is tokens. `dialect` is open on the vocabulary that the model will carry."""

    plan: Plan
    corpus: Corpus
    train: Encoding
    held: Encoding
    dialect: Dialect
    told: Told
    planned: Planned

    @property
    def template(self) -> str | None:
        return self.dialect.chosen.source if self.corpus.is_chat else None


def make_ready(
    corpus: Corpus, recipe: TrainRecipe, known: Plan | None, place: Place, threads: int,
    available_bytes: int, progress: Progress, note: Callable[[str], None], stack: ExitStack,
) -> Ready:  # fmt: skip
    """Decide what `known`, the plan of a run that is gone on with, does not say; learn the words,
    tokenize. The vocabulary stays open as long as `stack`. Raises UsageProblem, DoesNotFit,
    DiskFull."""
    if known is None:
        words, n_vocab = _words(corpus, recipe, threads, progress)
        shape, precision, speed, pack_tokens = _shape(
            corpus, recipe, n_vocab, available_bytes, progress
        )
    else:
        known = plans.gone_on(known, recipe)
        words, shape, precision = known.tokenizer, known.shape, known.precision
        speed, pack_tokens = Speed(known.tokens_per_s, 0.0, known.peak_bytes), known.pack_tokens
    place.tokenizer.write_text(words, "utf-8")
    template = TEMPLATE if corpus.is_chat else "none"
    write_words(shape, place.tokenizer, place.words, None)
    dialect = stack.enter_context(Dialect.open(place.words, template=template))
    held = encode(corpus, HELD, dialect, shape.context, threads, progress, "tokens held out")
    if known is None:
        corpus = _thinned(corpus, recipe, speed, held)
    else:
        corpus = thin(corpus, known.thinned_bytes, recipe.seed)
    train = encode(corpus, TRAIN, dialect, shape.context, threads, progress, "tokens to learn")
    plan = known or _plan(corpus, recipe, words, shape, precision, speed, pack_tokens, train, held)
    if held.n_lost + train.n_lost:
        note(
            f"{held.n_lost + train.n_lost} tokens of conversations longer than the context were "
            "cut off: --context"
        )
    return Ready(
        plan, corpus, train, held, dialect, told_of(corpus, train, held), planned_of(plan)
    )  # fmt: skip


def _words(
    corpus: Corpus, recipe: TrainRecipe, threads: int, progress: Progress
) -> tuple[str, int]:
    size = recipe.vocab_size or default_size(corpus.bytes_of(TRAIN))
    texts = (part.text for part in corpus.parts(TRAIN))
    return learn_words(
        texts, size, is_chat=corpus.is_chat, named=recipe.vocab_size is not None,
        threads=threads, progress=progress,
    )  # fmt: skip


def _shape(
    corpus: Corpus, recipe: TrainRecipe, n_vocab: int, available_bytes: int, progress: Progress
) -> tuple[Shape, str, Speed, int]:
    """The shape, what it is computed in, how fast it is here, and tokens of a pack."""
    n_bytes = corpus.bytes_of(TRAIN)
    tried = smallest(recipe, n_vocab, n_bytes)
    pack_tokens = recipe.pack_tokens or max(recipe.context, plans.PACK_TOKENS)
    _require_room(tried, pack_tokens, available_bytes)
    precision = recipe.precision
    if precision == "auto":
        precision = try_precisions(tried.width, tried.ff).best
    with progress.steps("trial", None) as advance:
        speed = try_shape(tried, recipe, precision, pack_tokens)
        advance(1, f"{speed.tokens_per_s:.0f} tokens/s")
        unique = n_bytes / _BYTES_PER_TOKEN
        shape = choose(recipe, tried, speed.tokens_per_s * tried.flops_per_token, unique)
        if shape != tried:
            _require_room(shape, pack_tokens, available_bytes)
            speed = try_shape(shape, recipe, precision, pack_tokens)
            advance(1, f"{speed.tokens_per_s:.0f} tokens/s")
    return shape, precision, speed, pack_tokens


_BYTES_PER_TOKEN = 3.5  # about, of a text whose tokens were learned from it


def _require_room(shape: Shape, pack_tokens: int, available_bytes: int) -> None:
    need = shape.memory_bytes(pack_tokens)
    if need > _ROOM * available_bytes:
        raise DoesNotFit(
            f"training {shape.n_params / 1e6:.1f} million parameters so takes about {Bytes(need)}, "
            f"and {Bytes(int(_ROOM * available_bytes))} can be used",
            f"--pack-tokens {shape.context}, fewer --layers or a smaller --width",
        )


def _thinned(corpus: Corpus, recipe: TrainRecipe, speed: Speed, held: Encoding) -> Corpus:
    """Without the text that the run would end before."""
    if recipe.epochs is not None:
        return corpus
    per_token = corpus.bytes_of(HELD) / max(1, held.n_tokens)
    if recipe.steps is not None:
        seen = float(recipe.steps * (recipe.batch_tokens or pace.BATCH_MOST))
    else:
        seen = pace.planned_tokens(recipe, speed.tokens_per_s, 1 << 60)
    return thin(corpus, int(_LEFT * seen * per_token), recipe.seed)


def thin(corpus: Corpus, most_bytes: int, seed: int) -> Corpus:
    """With units of about `most_bytes` to learn from, drawn by `seed`, where there are more."""
    if not most_bytes or corpus.bytes_of(TRAIN) <= most_bytes:
        return corpus
    places = np.flatnonzero(corpus.fates == TRAIN)
    order = np.random.default_rng([seed, 2]).permutation(places)
    ends = np.cumsum(corpus.sizes[order])
    fates = corpus.fates.copy()
    fates[order[max(1, int(np.searchsorted(ends, most_bytes, side="right"))) :]] = LEFT
    return replace(corpus, fates=fates)


LEFT = DROPPED + 1


def _plan(
    corpus: Corpus, recipe: TrainRecipe, words: str, shape: Shape, precision: str, speed: Speed,
    pack_tokens: int, train: Encoding, held: Encoding,
) -> Plan:  # fmt: skip
    n_rows = len(rows_of(train.examples.lengths, shape.context))
    per_row = train.n_tokens / n_rows
    tokens = pace.planned_tokens(recipe, speed.tokens_per_s, train.n_tokens)
    if recipe.steps is not None:
        tokens = float(recipe.steps * pace.BATCH_LEAST)
    rows = pace.batch_rows(recipe, tokens, n_rows)
    tokens_per_s = speed.with_batch(rows * per_row)
    if recipe.steps is None:
        tokens = pace.planned_tokens(recipe, tokens_per_s, train.n_tokens)
    steps = recipe.steps or max(1, round(tokens / (rows * per_row)))
    seen = steps * rows * per_row
    per_chunk = held.n_tokens / len(held.examples)
    return Plan(
        asked=json.loads(json.dumps(recipe.as_dict())),
        data=corpus.sha256,
        tokenizer=words,
        shape=shape,
        precision=precision,
        tokens_per_s=tokens_per_s,
        peak_bytes=max(speed.peak_bytes, 0),
        rows=rows,
        steps=steps,
        lr=recipe.lr or default_rate(recipe, shape),
        dropout=pace.dropout_of(recipe, seen / max(1, train.n_tokens)),
        pack_tokens=pack_tokens,
        n_tokens=train.n_tokens,
        tokens_per_step=rows * per_row,
        n_held=min(len(held.examples), max(1, round(pace.held_tokens(seen) / per_chunk))),
        thinned_bytes=corpus.bytes_of(TRAIN) if (corpus.fates == LEFT).any() else 0,
    )


def told_of(corpus: Corpus, train: Encoding, held: Encoding) -> Told:
    units = "conversations" if corpus.is_chat else "documents"
    return Told(
        files=len(corpus.dataset.files),
        n_documents=corpus.n_documents,
        n_units=corpus.count(TRAIN),
        units=units if corpus.section is None else "sections",
        n_held=corpus.count(HELD),
        train_bytes=corpus.bytes_of(TRAIN),
        held_bytes=corpus.bytes_of(HELD),
        left_bytes=corpus.bytes_of(LEFT),
        train_tokens=train.n_tokens,
        held_tokens=held.n_tokens,
        n_dropped=corpus.count(DROPPED),
        n_bad=corpus.n_bad,
        problems=tuple(
            f"{one.n_rows}: {one.reason} ({', '.join(one.rows[:5])})" for one in corpus.problems
        ),
        sha256=corpus.sha256,
    )


def planned_of(plan: Plan) -> Planned:
    shape = plan.shape
    return Planned(
        **shape.as_json(),
        n_params=shape.n_params,
        has_k_rows=shape.has_k_rows,
        precision=plan.precision,
        steps=plan.steps,
        tokens_per_step=round(plan.tokens_per_step),
        tokens=round(plan.tokens_seen),
        epochs=plan.epochs,
        tokens_per_param=plan.tokens_seen / shape.n_params,
        lr=plan.lr,
        dropout=plan.dropout,
        optimizer=plan.asked["optimizer"],
        tokens_per_s=plan.tokens_per_s,
        training_s=plan.training_s,
        peak_bytes=plan.peak_bytes,
    )
