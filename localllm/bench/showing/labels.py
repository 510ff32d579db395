"""What tells rows apart: the model, the run, and the settings that differ between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.bench.files.fields import FIELDS
from localllm.library.bench.record import BenchRow, BenchRun
from localllm.ui import Moment

# Settings in llama-bench's order, with the letters of their options.
SETTINGS = (
    ("n_threads", "t"), ("n_batch", "b"), ("n_ubatch", "ub"), ("type_k", "ctk"),
    ("type_v", "ctv"), ("n_gpu_layers", "ngl"), ("n_cpu_moe", "ncmoe"), ("split_mode", "sm"),
    ("main_gpu", "mg"), ("no_kv_offload", "nkvo"), ("flash_attn", "fa"), ("tensor_split", "ts"),
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A row with the run it stands in. `who` names the model, and the run where several are of
    one model; `how` the settings that differ among all rows ("t=4 fa=1")."""

    run: BenchRun
    row: BenchRow
    who: str
    how: str

    @property
    def label(self) -> str:
        return f"{self.who} {self.how}".rstrip()


def entries(runs: Sequence[BenchRun]) -> tuple[Entry, ...]:
    """Every row of `runs`, failed ones too."""
    names = run_names(runs)
    differing = differing_settings([row for run in runs for row in run.rows])
    return tuple(
        Entry(run, row, name, settings_text(row, differing))
        for run, name in zip(runs, names, strict=True)
        for row in run.rows
    )


def run_names(runs: Sequence[BenchRun]) -> tuple[str, ...]:
    """A name for each run: the model's, and where that is not enough the tag, number or time."""
    models = [run.model for run in runs]
    names = []
    for run in runs:
        name = run.model
        if models.count(name) > 1:
            mark = run.tag or (f"#{run.id}" if run.id is not None else str(Moment(run.started_at)))
            name = f"{name} {mark}"
        names.append(name)
    for number, name in enumerate(names):
        if name in names[:number]:  # two runs of one tag
            names[number] = f"{name} #{runs[number].id or number + 1}"
    return tuple(names)


def differing_settings(rows: Sequence[BenchRow]) -> tuple[tuple[str, str], ...]:
    """Those of SETTINGS that have more than one value in `rows`."""
    return tuple(
        (name, short) for name, short in SETTINGS if len({getattr(r, name) for r in rows}) > 1
    )


def shared_settings(rows: Sequence[BenchRow]) -> tuple[tuple[str, str], ...]:
    """Those of SETTINGS that have one value in all `rows`: what `differing_settings` leaves."""
    differing = differing_settings(rows)
    return tuple(setting for setting in SETTINGS if setting not in differing)


def telling_settings(rows: Sequence[BenchRow]) -> tuple[tuple[str, str], ...]:
    """The threads, and those of SETTINGS that some row has another value for than llama-bench
    takes without options."""
    usual = {field.name: field.default for field in FIELDS} | {"n_threads": None}
    return tuple(
        (name, short) for name, short in SETTINGS
        if any(getattr(row, name) not in (usual[name], "") for row in rows)
    )  # fmt: skip


def settings_text(row: BenchRow, settings: Sequence[tuple[str, str]] = SETTINGS) -> str:
    """As "t=4 b=2048"; empty values are left out."""
    texts = [(short, getattr(row, name)) for name, short in settings]
    return " ".join(
        f"{short}={int(value) if isinstance(value, bool) else value}"
        for short, value in texts
        if value != ""
    )
