"""What a user types to name a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from localllm.bench.comparing.baseline import resolve_runs
from localllm.errors import AmbiguousModel, DamagedFile, FileGone, NotFound, UsageProblem
from localllm.library.bench.record import BenchRun
from localllm.registry import Model, Registry
from tests.bench.runs import a_row, a_run
from tests.conftest import Done

Cli = Callable[..., Done]


def keep(registry: Registry, model: Model, run: BenchRun) -> int:
    return registry.record(model, "bench", asdict(replace(run, model=model.name)))


def a_document(*runs: BenchRun) -> str:
    data = [asdict(run) for run in runs]
    return json.dumps({"schema": 1, "command": "bench", "ok": True, "data": data})


def test_an_id_a_tag_a_model_and_both(registry: Registry, tiny_model: Model) -> None:
    old = keep(registry, tiny_model, a_run(started_at=100.0, tag="base"))
    new = keep(registry, tiny_model, a_run(started_at=200.0))
    for text, number in ((str(old), old), ("base", old), ("tiny@base", old), ("tiny", new),
                         (tiny_model.name, new)):  # fmt: skip
        assert [run.id for run in resolve_runs(text, registry).runs] == [number], text


def test_the_newest_of_a_tag_counts(registry: Registry, tiny_model: Model) -> None:
    keep(registry, tiny_model, a_run(started_at=300.0, tag="base"))
    newest = keep(registry, tiny_model, a_run(started_at=400.0, tag="base"))
    keep(registry, tiny_model, a_run(started_at=350.0, tag="base"))
    assert resolve_runs("base", registry).runs[0].id == newest


def test_an_interrupted_run_is_not_a_models_newest(registry: Registry, tiny_model: Model) -> None:
    whole = keep(registry, tiny_model, a_run(started_at=100.0))
    keep(registry, tiny_model, a_run(started_at=200.0, complete=False))
    assert resolve_runs("tiny", registry).runs[0].id == whole


def test_runs_of_an_import_are_found_by_their_models_name(
    registry: Registry, tiny_model: Model
) -> None:
    gone = replace(tiny_model, name="llama 8B Q4_K")
    number = keep(registry, gone, a_run())
    assert resolve_runs("llama 8B Q4_K", registry).runs[0].id == number


def test_what_is_a_tag_and_a_model_is_refused(registry: Registry, tiny_model: Model) -> None:
    keep(registry, tiny_model, a_run(tag="tiny"))
    with pytest.raises(AmbiguousModel):
        resolve_runs("tiny", registry)


def test_nothing_of_that_name(registry: Registry, tiny_model: Model) -> None:
    for text in ("nobody", "99", "tiny@nothing", "tiny"):
        with pytest.raises(NotFound):
            resolve_runs(text, registry)
    with pytest.raises(FileGone):
        resolve_runs("gone.json", registry)


def test_a_document_of_ours_and_a_folder_of_that_name(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    path.write_text(a_document(a_run(), a_run(a_row("other"))))
    assert resolve_runs(str(path), registry).models == ("tiny", "other")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageProblem):
        resolve_runs(str(tmp_path / "folder.json"), registry)


def test_another_schema_and_an_older_version(registry: Registry, tiny_model: Model) -> None:
    number = keep(registry, tiny_model, replace(a_run(), schema=7))
    with pytest.raises(UsageProblem, match="schema 7"):
        resolve_runs(str(number), registry)
    registry.record(tiny_model, "bench", {"rows": [{"avg_ts": 5}]})  # version 0.1.0
    with pytest.raises(UsageProblem):
        resolve_runs("tiny", registry)
    good = keep(registry, tiny_model, a_run())  # is taken although the others are there
    assert resolve_runs("tiny", registry).runs[0].id == good


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", UsageProblem),
        ("{", DamagedFile),
        (a_document(a_run())[:900], DamagedFile),
        (a_document(a_run()).replace('"avg_ts": 100.0', '"avg_ts": NaN'), DamagedFile),
        (json.dumps({"schema": 1, "command": "list", "ok": True, "data": []}), UsageProblem),
    ],
)
def test_files_that_are_none(
    registry: Registry, tmp_path: Path, text: str, error: type[Exception]
) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(error):
        resolve_runs(str(path), registry)
