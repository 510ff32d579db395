"""Everything that decides what a run learns: on the command line, in a file, with the result.

A recipe file is TOML; its keys are the options' names with `_` for `-`. What the command line
says wins over the file. What neither says stays at the defaults here, and the whole of it is
stored with what was made.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_args, get_type_hints

from localllm.errors import FileGone, UsageProblem
from localllm.finetune.checks import (
    KEEP,
    PRECISIONS,
    check_choices,
    check_ranges,
    check_together,
    held_out,
)

__all__ = [
    "FIXED", "KEEP", "PRECISIONS", "Recipe", "checked", "held_out", "merged", "read_recipe",
    "to_toml", "with_objective",
]  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """All options of `finetune`. None means: decided by the model, the data or the machine."""

    # what
    base: str | None = None
    data: tuple[str, ...] = ()
    name: str | None = None
    # the data
    format: str | None = None
    column: tuple[str, ...] = ()
    from_chats: bool = False
    chats: tuple[str, ...] = ()
    from_votes: bool = False
    bad_rows: str = "skip"
    duplicates: str = "keep"
    limit: int | None = None
    max_length: int | None = None
    overlong: str = "truncate"
    learn: str = "assistant"
    system: str | None = None
    thinking: str = "auto"
    chat_template: str | None = None
    held_out: str = "5%"
    # the method
    method: str = "lora"
    objective: str = "auto"
    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ("all",)
    dropout: float = 0.0
    adapter: str | None = None
    any_base: bool = False
    base_weights: str = "auto"
    beta: float = 0.1
    orpo_weight: float = 0.1
    # the training
    epochs: float = 3.0
    steps: int | None = None
    batch_size: int = 8
    lr: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    lr_floor: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    # the machine
    device: str = "auto"
    pack_tokens: int | None = None
    checkpointing: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    shard: str = "auto"
    # looking, keeping
    eval_every: int | None = None
    patience: int | None = None
    keep: str = "best"
    save_every: int | None = None
    sample_every: int = 0
    samples: int = 3
    sample_tokens: int = 48
    sample_prompt: tuple[str, ...] = ()
    tensorboard: str | None = None
    wandb: str | None = None
    merge: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_ranges(self)
        check_together(self)

    @property
    def learning_rate(self) -> float:
        """What `lr` says, else what is usual for the method."""
        if self.lr is not None:
            return self.lr
        if self.method == "full":
            return 2e-5
        return 5e-5 if self.objective in ("dpo", "orpo") else 2e-4

    @property
    def is_adapter(self) -> bool:
        return self.method != "full"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def lineage(self) -> dict[str, Any]:
        """What decides the result: not what it is called, and not how it was watched."""
        beside = (
            "name", "any_base", "device", "threads", "shard", "samples", "sample_every",
            "sample_tokens", "sample_prompt", "merge", "tensorboard", "wandb",
        )  # fmt: skip
        return {k: v for k, v in self.as_dict().items() if k not in beside and v is not None}


def words_of(recipe: Recipe) -> list[str]:
    """The command that has `recipe`, as words: what differs from the defaults, the base first.

    What was decided by data or machine is in it, so that it means the same elsewhere.
    """
    return ["localllm", "finetune", *option_words(recipe, "base")]


def option_words(recipe: Options, first: str) -> list[str]:
    """What of `recipe` differs from the defaults, as words; the value of `first` without its
    option, before all others."""
    value = getattr(recipe, first)
    words = [] if value is None else [str(value)]
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if field.name == first or value == field.default:
            continue
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(value, tuple):
            words += [word for one in value for word in (option, str(one))]
        else:
            words += [option] if value is True else [option, str(value)]
    return words


# What a resumed run may not change: the weights learned so far would mean something else.
FIXED = (
    "method", "objective", "rank", "alpha", "targets", "adapter", "format", "column", "limit",
    "max_length", "overlong", "learn", "system", "thinking", "chat_template", "held_out",
    "batch_size", "seed", "duplicates", "bad_rows", "dropout",
)  # fmt: skip


def check_unchanged(known: Mapping[str, Any], now: Mapping[str, Any], of_data: str) -> None:
    """Raise UsageProblem where a run would go on with other options than it began with, or with
    other data (the key `data`), which `of_data` names."""
    keys = [*now, *(key for key in known if key not in now)]
    changed = [key for key in keys if known.get(key) != now.get(key)]
    if not changed:
        return
    said = [_option(key, known.get(key)) for key in changed if key != "data"]
    if "data" in changed and not said:  # options change what the data comes to
        said = [f"other {of_data}"]
    raise UsageProblem(
        f"the interrupted run was begun with {', '.join(said)}",
        "give what it was begun with, or --restart to begin again",
    )


def _option(key: str, value: Any) -> str:
    """As one would write it: `--rank 16`, `no --max-length`."""
    option = f"--{key.replace('_', '-')}"
    if value in (None, False, (), []):
        return f"no {option}"
    if isinstance(value, tuple | list):
        return " ".join(f"{option} {one}" for one in value)
    return option if value is True else f"{option} {value}"


def merged(file: Mapping[str, Any], given: Mapping[str, Any]) -> Recipe:
    """The recipe of a file's values and, over them, those of the command line that are not None.

    Raises UsageProblem for keys and values that are none.
    """
    values = dict(checked(file)) | {k: v for k, v in given.items() if v not in (None, (), [])}
    ready: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Recipe(**ready)


def read_recipe(path: Path, kind: type[Any] = Recipe) -> dict[str, Any]:
    """A recipe file's values, keys of `kind`. Raises FileGone, UsageProblem naming what is wrong.

    Paths in it (data, chat_template) are meant from the folder the file is in.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise FileGone(f"there is no recipe {path}") from None
    except UnicodeDecodeError:
        raise UsageProblem(f"{path} is no text") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageProblem(f"{path} is no TOML: {error}") from None
    found = dict(checked(values, str(path), kind))
    for key in ("data", "chat_template"):
        if key in found:
            found[key] = _from_folder(found[key], path.parent)
    return found


def _from_folder(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_from_folder(one, folder) for one in value]
    beside = folder / str(value)
    return str(beside) if beside.exists() else value


class Options(Protocol):
    """A dataclass of options, of `finetune` or `train`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def as_dict(self) -> dict[str, Any]: ...


def to_toml(recipe: Options) -> str:
    """A file that `read_recipe` reads back; what is None stands as a comment."""
    lines = []
    for key, value in recipe.as_dict().items():
        # JSON's strings, numbers, booleans and lists of strings are TOML's
        text = json.dumps(value, ensure_ascii=False)
        lines.append(f"# {key} =  (decided by the run)" if value is None else f"{key} = {text}")
    return "\n".join(lines) + "\n"


def checked(
    values: Mapping[str, Any], where: str = "the recipe", kind: type[Any] = Recipe
) -> Mapping[str, Any]:
    """`values` as fields of the dataclass `kind`. Raises UsageProblem for keys and types that
    are none."""
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise UsageProblem(f"{where} has an unknown key {key!r}", f"of {', '.join(known)}")
        if not _fits(value, hints[key]):
            raise UsageProblem(f"{where}: {key} cannot be {value!r}")
    return {k: float(v) if _is_float(hints[k]) and v is not None else v for k, v in values.items()}


def _is_float(hint: Any) -> bool:
    return float in (hint, *get_args(hint)) and str not in get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) or (hint,)
    if Ellipsis in kinds:
        return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    if isinstance(value, bool) or bool in kinds:
        return isinstance(value, bool) and bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, tuple(k for k in kinds if k is not type(None)))


def with_objective(recipe: Recipe, preferences: bool) -> Recipe:
    """The recipe with `objective` decided by the data. Raises UsageProblem where they differ."""
    if recipe.objective == "auto":
        recipe = replace(recipe, objective="dpo" if preferences else "sft")
    for key, objective in (("beta", "dpo"), ("orpo_weight", "orpo")):
        if recipe.objective != objective and getattr(recipe, key) != getattr(Recipe, key):
            option = key.replace("_", "-")
            raise UsageProblem(
                f"--{option} is of --objective {objective}; this run is {recipe.objective}"
            )
    if (recipe.objective == "sft") == preferences:
        what = "preference pairs" if preferences else "no preference pairs"
        raise UsageProblem(
            f"--objective {recipe.objective} does not go with this data: it is {what}",
            "--objective dpo" if preferences else "--objective sft",
        )
    return recipe
