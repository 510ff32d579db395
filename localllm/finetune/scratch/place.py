"""Where a run keeps its state until it is done: below the registry's home, one run at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import UsageProblem
from localllm.finetune.curves import kept_id
from localllm.registry import Registry

_MEMBERS = ("plan", "tokenizer", "words", "checkpoint", "best", "made", "sample", "curves")


@dataclass(frozen=True)
class Place:
    """Files of one run, which is known by the name of its result. `prune` removes what nobody
    goes on with."""

    label: str
    plan: Path
    tokenizer: Path
    words: Path
    checkpoint: Path
    best: Path
    made: Path
    sample: Path
    curves: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Place:
        """Of a dry run: nothing stays."""
        return cls("", *(folder / member for member in _MEMBERS))

    def check(self, *, resume: bool, restart: bool) -> None:
        """Raise UsageProblem where an interrupted run would be thrown away unasked; begin clean
        where there is none to go on with."""
        if self.checkpoint.exists() and not (resume or restart):
            raise UsageProblem(
                "a run of this name was interrupted, and its state is kept",
                "the same command with --resume goes on, with --restart begins again",
            )
        if not (resume and self.checkpoint.exists()):
            self.clear()

    def run_id(self) -> str:
        """What the run is known by elsewhere: the same when it is gone on with."""
        return kept_id(self.curves)

    def clear(self) -> None:
        """Remove everything."""
        for path in (getattr(self, member) for member in _MEMBERS):
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.new").unlink(missing_ok=True)


def waits_for(name: str) -> str:
    """What is said while another process has the run."""
    return f"another process trains {name}; waiting for it"


@contextmanager
def place_of(name: str, registry: Registry, note: Callable[[str], None]) -> Iterator[Place]:
    """The place of a run, held against other processes."""
    key, label = f"train {name}", name.replace("/", "-")
    with registry.lock(key, lambda: note(waits_for(name))):
        yield Place(name, *(registry.partial(key, label, member) for member in _MEMBERS))
