"""What was asked for, and what it means: base, data and place of the run, nothing loaded yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm import config
from localllm.errors import UsageProblem
from localllm.finetune.plan import Base, base_of
from localllm.finetune.recipe import Recipe, held_out, with_objective
from localllm.library.derive import base_name, checked_name, with_digest
from localllm.library.find import find_model
from localllm.registry import Model, Registry
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.finetune.data import Example, Prepared, Split


@dataclass(frozen=True)
class Asked:
    """The command line. `restart` throws an interrupted run away."""

    recipe: Recipe
    dry_run: bool = False
    resume: bool = False
    restart: bool = False
    report: Path | None = None
    save_recipe: Path | None = None


@dataclass(frozen=True)
class Subject:
    """The base in the registry, and what its header says. `model` has its digest."""

    model: Model
    base: Base
    arch: str


def find_subject(text: str | None, registry: Registry, progress: Progress) -> Subject:
    """The base that `text` names. Everything that cannot be tuned is refused here, from its
    header. Raises ModelNotFound, FileGone, DamagedFile, UsageProblem, EngineError."""
    from localllm.finetune.model import check_source
    from localllm.formats.gguf import read_model
    from localllm.formats.hf import sizes_of_gguf

    if text is None:
        raise UsageProblem("name the model to tune", "localllm finetune MODEL --data FILE")
    model = find_model(text, registry)
    if model.format == "adapter":
        raise UsageProblem(
            f"{model.name} is an adapter, not a model",
            f"tune its base and go on from it: localllm finetune BASE --adapter {model.name}",
        )
    if model.format == "safetensors":
        model = _converted(model, registry, progress)
    if model.format != "gguf":
        raise UsageProblem(f"{model.name} is a {model.format} file, no language model")
    arch = check_source(model.path)
    header = read_model(model.path)
    return Subject(with_digest(model, progress), base_of(header, sizes_of_gguf(header), arch), arch)


def _converted(model: Model, registry: Registry, progress: Progress) -> Model:
    """The GGUF of a safetensors model: what is tuned is what llama.cpp will run."""
    from localllm.library.conversion import made_before

    made = made_before(model, registry, progress)
    if made is None:
        raise UsageProblem(
            f"{model.name} is tuned as the GGUF that will run it, and has none yet",
            f"localllm convert {model.name}",
        )
    return made


def find_beginning(recipe: Recipe, subject: Subject, registry: Registry) -> Path:
    """The adapter that `--adapter` goes on from. Raises ModelNotFound, DamagedFile, and
    UsageProblem for one that was trained on another model."""
    from localllm.library.describe import loose_model
    from localllm.library.find import find_adapter
    from localllm.library.merging.kin import check_kin

    assert recipe.adapter is not None
    path, scale = find_adapter(recipe.adapter, registry)
    if scale != 1.0:
        raise UsageProblem(f"--adapter {recipe.adapter}: one goes on from all of it, at no scale")
    if not recipe.any_base:
        try:  # what it says of its base is in the file, of the registry's models too
            check_kin(replace(loose_model(path), name=recipe.adapter), subject.model, registry)
        except UsageProblem as problem:
            raise UsageProblem(problem.message, "name its base, or say --any-base") from None
    return path


def shaped_as(recipe: Recipe, adapter: Path, note: Callable[[str], None]) -> Recipe:
    """`recipe` with the rank and the targets of the adapter that it goes on from, where it names
    none; what it names and the adapter has not is refused when both are laid side by side."""
    from localllm.formats.gguf import read_header
    from localllm.library.lineage import lineage_in

    header = read_header(adapter)
    ranks = {one.shape[1] for name, one in header.tensors.items() if name.endswith(".lora_a")}
    made = lineage_in(header)
    targets = made.parameters.get("targets") if made is not None else None
    found: dict[str, Any] = {}
    if len(ranks) == 1 and recipe.rank == Recipe.rank:
        found["rank"] = ranks.pop()
    if isinstance(targets, list) and recipe.targets == Recipe.targets:
        found["targets"] = tuple(map(str, targets))
    shaped = replace(recipe, **found)
    if shaped != recipe:
        what = f"rank {shaped.rank} on {', '.join(shaped.targets)}"
        note(f"going on as {recipe.adapter} is: {what}")
    return shaped


@dataclass(frozen=True)
class Learning:
    """The data as it is learned from. `items` are one sequence each, two for preferences."""

    prepared: Prepared
    parts: Split
    recipe: Recipe  # with its objective decided

    @property
    def train(self) -> Sequence[Sequence[Example]]:
        return Items(self.parts.train)

    @property
    def held_out(self) -> Sequence[Sequence[Example]]:
        return Items(self.parts.held_out)


class Items(Sequence[Sequence["Example"]]):
    """Prepared rows as what is learned at once; examples are made when they are asked for."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def __len__(self) -> int:
        return len(self._prepared)

    def __getitem__(self, i: int) -> Sequence[Example]:  # type: ignore[override]
        if self._prepared.is_pairs:
            pair = self._prepared.pairs[i]
            return (pair.chosen, pair.rejected)
        return (self._prepared.examples[i],)


def read_data(
    recipe: Recipe, subject: Subject, registry: Registry, progress: Progress,
    note: Callable[[str], None],
) -> Learning:  # fmt: skip
    """Find, tokenize and part the data. Raises what `open_data` and `prepare` raise."""
    from localllm.finetune.data import (
        DataSpec,
        Dialect,
        EncodeOptions,
        open_data,
        parse_chat_filter,
        parse_columns,
        prepare,
        split,
        unpruned,
    )
    from localllm.finetune.training.prepare import launched

    chosen = parse_chat_filter(recipe.chats)
    spec = DataSpec(
        sources=recipe.data,
        format=recipe.format,  # type: ignore[arg-type]
        columns=parse_columns(recipe.column),
        from_chats=chosen if recipe.from_chats or recipe.chats else None,
        from_votes=recipe.from_votes,
        bad_rows=recipe.bad_rows,  # type: ignore[arg-type]
        duplicates=recipe.duplicates,  # type: ignore[arg-type]
        limit=recipe.limit,
    )
    encode = EncodeOptions(
        max_length=recipe.max_length,
        overlong=recipe.overlong,  # type: ignore[arg-type]
        loss=recipe.learn,  # type: ignore[arg-type]
        system=recipe.system,
    )
    whose = f"{subject.model.name} {recipe.name} {launched()[0]}"
    with unpruned(recipe.data, whose, registry):  # afterwards all of it is tokens
        dataset = open_data(spec, registry=registry, progress=progress)
        with Dialect.of(
            subject.model,
            template=recipe.chat_template,
            thinking=recipe.thinking,
        ) as dialect:
            prepared = prepare(
                dataset, dialect, encode, progress=progress, n_threads=threads_for(recipe)
            )
    share, count = held_out(recipe.held_out)
    parts = split(prepared, fraction=share, count=count, seed=recipe.seed)
    if parts.why:
        note(parts.why)
    elif (n_held := len(parts.held_out)) > (n_left := len(parts.train)):
        note(
            f"--held-out {recipe.held_out} keeps {n_held} of {n_held + n_left} back: {n_left} to "
            "learn from"
        )
    return Learning(prepared, parts, with_objective(recipe, prepared.is_pairs))


def threads_for(recipe: Recipe) -> int:
    """What was asked for, else this process's share of the cores."""
    from localllm.engine.threads import default_threads
    from localllm.finetune.training.prepare import beside

    return recipe.threads or config.load().threads or max(1, default_threads() // beside())


def result_name(recipe: Recipe, subject: Subject) -> str:
    """What the result is called: `--name`, else the base's name and the data's."""
    if recipe.name is not None:
        return checked_name(recipe.name)
    kept = "chats" if recipe.from_chats or recipe.chats else "votes"
    first = Path(recipe.data[0]).stem if recipe.data else kept
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in first)
    mark = "tuned" if recipe.method == "full" else "lora"
    return f"{base_name(subject.model)}:{cleaned.strip('-._')[:40] or 'data'}-{mark}"


def settled(asked: Asked, learning: Learning, subject: Subject) -> Recipe:
    """The recipe with everything in it that decides the result."""
    return replace(learning.recipe, base=subject.model.name, lr=learning.recipe.learning_rate)
