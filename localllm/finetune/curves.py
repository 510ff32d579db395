"""A run's curves where people look at runs: TensorBoard's event files, Weights & Biases.

Neither is used unless it is asked for. What goes there are figures and options: no data, no
prompts, no answers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from localllm.errors import MissingExtra, SourceFailed

if TYPE_CHECKING:
    from localllm.finetune.training.records import EvalRecord, StepRecord

# Options that are words of the user's
_PRIVATE = ("data", "column", "chats", "system", "sample_prompt", "chat_template", "adapter")
_PACKAGES = {"tensorboard": "--tensorboard", "wandb": "--wandb"}


class Options(Protocol):
    """A recipe: where its curves go, and what of it decides the result."""

    @property
    def tensorboard(self) -> str | None: ...

    @property
    def wandb(self) -> str | None: ...

    def lineage(self) -> dict[str, Any]: ...


class Curves(Protocol):
    """Takes figures by name at a step. What it raises as OSError ends the curves, not the run."""

    def add(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def require_curves(recipe: Options) -> None:
    """Raise MissingExtra where what shows the curves is not installed."""
    for package, wanted in (("tensorboard", recipe.tensorboard), ("wandb", recipe.wandb)):
        if wanted is not None and find_spec(package) is None:
            raise MissingExtra(f"{_PACKAGES[package]} needs {package}", f"pip install {package}")


def open_curves(recipe: Options, name: str, run_id: Callable[[], str], done: int) -> list[Curves]:
    """Those that `recipe` asks for. `run_id` tells runs of one name apart, `done` are the steps
    that a run before this one has told. Raises SourceFailed, OSError."""
    found: list[Curves] = []
    if recipe.tensorboard is not None:
        folder = Path(recipe.tensorboard).expanduser() / name.replace(":", "-").replace("/", "-")
        found.append(TensorBoard(folder, shared_options(recipe), done))
    if recipe.wandb is not None:
        found.append(WeightsAndBiases(recipe.wandb, name, run_id(), shared_options(recipe)))
    return found


def shared_options(recipe: Options) -> dict[str, Any]:
    """The options that go along; of a base that is a file here, its name."""
    found = {k: v for k, v in recipe.lineage().items() if k not in _PRIVATE}
    base = found.get("base")
    if isinstance(base, str) and Path(base).is_absolute():
        found["base"] = Path(base).name
    return found


def kept_id(path: Path) -> str:
    """The run's id that is kept at `path`: the same when it is gone on with."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(8), "ascii")
    return path.read_text("ascii")


class TensorBoard:
    """Event files in `folder`; steps after `done` that are there already are superseded."""

    def __init__(self, folder: Path, options: Mapping[str, Any], done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer: Any = SummaryWriter(str(folder), purge_step=done + 1 if done else None)
        rows = "".join(f"| {key} | {value} |\n" for key, value in options.items())
        self._writer.add_text("recipe", f"| option | value |\n|---|---|\n{rows}", done)

    def add(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B in `project`. Nothing of this machine, its code or its output goes along."""

    def __init__(self, project: str, name: str, run_id: str, options: Mapping[str, Any]) -> None:
        import wandb

        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False,
            disable_job_creation=True, x_disable_stats=True, x_disable_meta=True,
            x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        try:
            self._run: Any = wandb.init(
                project=project, name=name, id=run_id, resume="allow", config=dict(options),
                settings=settings,
            )  # fmt: skip
        except wandb.Error as error:
            text = " ".join(str(error).split())
            raise SourceFailed(
                f"Weights & Biases cannot be used: {text[:200]}",
                "wandb login, or WANDB_MODE=offline to keep the curves here",
            ) from None

    def add(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class Drawn:
    """A run's records on all `curves`. One that fails is left, with a note."""

    def __init__(self, curves: list[Curves], note: Callable[[str], None]) -> None:
        self._curves, self._note = curves, note

    def step(self, record: StepRecord) -> None:
        names = ("loss", "learning_rate", "grad_norm", "epoch", "memory_bytes")
        values = asdict(record)
        figures = {f"train/{name}": float(values[name]) for name in names}
        figures |= {f"train/{name}": value for name, value in record.extra.items()}
        if record.seconds:
            figures["train/tokens_per_s"] = record.tokens / record.seconds
        self._add(figures, record.step)

    def evaluated(self, record: EvalRecord) -> None:
        figures = {f"eval/{name}": value for name, value in record.extra.items()}
        self._add({"eval/loss": record.loss, **figures}, record.step)

    def close(self) -> None:
        with ExitStack() as stack:
            for one in self._curves:
                stack.callback(self._tried, one, one.close)

    def _add(self, figures: Mapping[str, float], step: int) -> None:
        for one in list(self._curves):
            self._tried(one, partial(one.add, figures, step))

    def _tried(self, one: Curves, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            self._curves.remove(one)
            self._note(f"the curves end here, the run goes on: {error}")
