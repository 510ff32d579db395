"""Where a run keeps its state until it is done: below the registry's home, one run at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import UsageProblem
from localllm.finetune.curves import kept_id
from localllm.finetune.training.group import Group
from localllm.registry import Lineage, Registry


@dataclass(frozen=True)
class Workplace:
    """Files of one run. A run is known by the result's name and the base's digest, so that it
    can be gone on with at another learning rate. `prune` removes what nobody goes on with."""

    checkpoint: Path
    best: Path
    made: Path
    sample: Path
    curves: Path
    is_first: bool

    def check(self, *, resume: bool, restart: bool) -> None:
        """Raise UsageProblem where an interrupted run would be thrown away unasked; begin
        clean where there is none to go on with."""
        if not self.is_first:
            return
        if self.checkpoint.exists() and not (resume or restart):
            raise UsageProblem(
                "a run of this name was interrupted, and its state is kept",
                "the same command with --resume goes on, with --restart begins again",
            )
        if not resume:
            self.clear()

    def run_id(self) -> str:
        """What the run is known by elsewhere: the same when it is gone on with."""
        return kept_id(self.curves)

    def clear(self) -> None:
        """Remove everything."""
        for path in (self.checkpoint, self.best, self.made, self.sample, self.curves):
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.new").unlink(missing_ok=True)


@contextmanager
def workplace(
    name: str, lineage: Lineage, registry: Registry, note: Callable[[str], None], group: Group
) -> Iterator[Workplace]:
    """The place of a run, held against other processes but those of its own group."""
    key = f"finetune {name} {lineage.parents}"
    label = name.replace("/", "-")
    waiting = f"another process tunes {name}; waiting for it"
    with registry.lock(key, lambda: note(waiting)) if group.is_first else nullcontext():
        yield Workplace(
            checkpoint=registry.partial(key, label, "checkpoint"),
            best=registry.partial(key, label, "best"),
            made=registry.partial(key, label, "made"),
            sample=registry.partial(key, label, "sample"),
            curves=registry.partial(key, label, "curves"),
            is_first=group.is_first,
        )
