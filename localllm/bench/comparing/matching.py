"""Which row of one run answers to which row of another, and whether two runs may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from localllm.bench.showing.labels import SETTINGS
from localllm.errors import UsageProblem
from localllm.library.bench.record import BenchRow, BenchRun

Across = Literal["machines", "models"]
ACROSS: tuple[Across, ...] = ("machines", "models")


@dataclass(frozen=True)
class Pair:
    """A test's row in both runs; None where a run has none. `changed` says which settings
    differ, as "t=2 -> 1"."""

    base: BenchRow | None
    new: BenchRow | None
    changed: tuple[str, ...] = ()

    @property
    def row(self) -> BenchRow:
        """Either row: the test and the setup are the base's where it has one."""
        found = self.base or self.new
        assert found is not None
        return found


def matched(base: Sequence[BenchRow], new: Sequence[BenchRow]) -> tuple[Pair, ...]:
    """Rows in the order of `base`, then what only `new` has.

    A row goes with the one of the same test and settings. Of what is left, a test that is there
    once on each side is the same test under other settings. Of rows of the same test and
    settings in one run the last counts.
    """
    old, now = _by_key(base), _by_key(new)
    left = _alone([row for key, row in old.items() if key not in now])
    right = _alone([row for key, row in now.items() if key not in old])
    pairs: list[Pair] = []
    moved: set[int] = set()
    for key, row in old.items():
        other = now.get(key)
        if other is None and row.test in left and row.test in right:
            other = right[row.test]
            moved.add(id(other))
        pairs.append(Pair(row, other, changes(row, other) if other is not None else ()))
    only_new = [row for key, row in now.items() if key not in old and id(row) not in moved]
    return (*pairs, *(Pair(None, row) for row in only_new))


def changes(base: BenchRow, new: BenchRow) -> tuple[str, ...]:
    """The settings that differ, in llama-bench's letters."""
    return tuple(
        f"{short}={_text(getattr(base, name))} -> {_text(getattr(new, name))}"
        for name, short in SETTINGS
        if _setting(base, name) != _setting(new, name)
    )


def check_comparable(base: BenchRun, new: BenchRun, across: Iterable[str]) -> tuple[str, ...]:
    """What differs between the runs, for a warning, where it was allowed.

    Raises UsageProblem where machines or models differ and `across` does not name them. Runs of
    llama-bench name no machine: there the processor and the GPUs count, and the model's kind and
    size where no digest is known.
    """
    allowed = set(across)
    if unknown := sorted(allowed - set(ACROSS)):
        raise UsageProblem(f"--across {unknown[0]!r} is none of {', '.join(ACROSS)}")
    said = []
    for name, difference in (
        ("models", model_difference(base, new)),
        ("machines", machine_difference(base, new)),
    ):
        if difference and name not in allowed:
            raise UsageProblem(
                f"the runs are of different {name}: {difference}",
                f"compare them all the same with --across {name}",
            )
        if difference:
            said.append(f"different {name}: {difference}")
    return tuple(said)


def model_difference(base: BenchRun, new: BenchRun) -> str | None:
    """In words, None for the same model."""
    if base.sha256 and new.sha256:
        if base.sha256 == new.sha256:
            return None
        if base.model != new.model:
            return f"{base.model} and {new.model}"
        return f"{base.model} with sha256 {base.sha256[:12]} and {new.sha256[:12]}"
    old, now = _model_facts(base), _model_facts(new)
    if not old or not now or old == now:
        return None
    return f"{base.model} ({old[0]}, {old[1]} B) and {new.model} ({now[0]}, {now[1]} B)"


def machine_difference(base: BenchRun, new: BenchRun) -> str | None:
    """In words, None for the same machine, or where nothing is known of one of them."""
    if base.machine and new.machine:
        if base.machine.fingerprint == new.machine.fingerprint:
            return None
        old = f"{base.machine.cpu}, {base.machine.n_cores} cores, {_gpus(base.machine.gpus)}"
        now = f"{new.machine.cpu}, {new.machine.n_cores} cores, {_gpus(new.machine.gpus)}"
        if old == now:
            return f"{base.machine.host} and {new.machine.host} (both {old})"
        return f"{old}; and {now}"
    first, second = _hardware(base), _hardware(new)
    if first is None or second is None or first == second:
        return None
    return f"{'; '.join(first)} and {'; '.join(second)}"


def _by_key(rows: Iterable[BenchRow]) -> dict[tuple[object, ...], BenchRow]:
    return {(row.test, *(_setting(row, name) for name, _ in SETTINGS)): row for row in rows}


def _alone(rows: Iterable[BenchRow]) -> dict[str, BenchRow]:
    """By test, those whose test is there once."""
    found: dict[str, list[BenchRow]] = {}
    for row in rows:
        found.setdefault(row.test, []).append(row)
    return {test: of[0] for test, of in found.items() if len(of) == 1}


def _setting(row: BenchRow, name: str) -> object:
    """The value of a setting, in one spelling: llama-bench says 0.00 for no tensor split."""
    value = getattr(row, name)
    return value if name != "tensor_split" or value.strip("0./") else ""


def _text(value: object) -> str:
    return str(int(value) if isinstance(value, bool) else value)


def _gpus(names: Sequence[str]) -> str:
    return ", ".join(names) or "no GPU"


def _model_facts(run: BenchRun) -> tuple[str, int] | None:
    row = next((r for r in run.rows if r.model_size), None)
    return (row.model_type, row.model_size) if row else None


def _hardware(run: BenchRun) -> tuple[str, ...] | None:
    row = next((r for r in run.rows if r.cpu_info), None)
    return tuple(part for part in (row.cpu_info, row.gpu_info) if part) if row else None
