"""Data sets of a Hub on loopback, by the real client: found, fetched, pinned, kept."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm import config
from localllm.config import Settings
from localllm.errors import (
    AccessDenied,
    InvalidReference,
    OfflineMode,
    SourceNotFound,
    SourceUnreachable,
)
from localllm.finetune.data import Dataset, DataSpec, open_data
from localllm.finetune.data.rows import Chat
from localllm.registry import Registry
from localllm.sources import hub as hubs
from localllm.sources.dataset_files import choose_files
from localllm.sources.datasets import DatasetRef
from localllm.sources.retry import Patience
from tests.support.http_server import Answer, Fault, Request
from tests.support.hub_server import TOKEN, HubServer

HASTE = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.05, stall_s=1)


class DatasetHub(HubServer):
    """Serves its repositories as data sets: the same protocol below other paths."""

    def respond(self, request: Request) -> Answer:
        for prefix, instead in (("/api/datasets/", "/api/models/"), ("/datasets/", "/")):
            if request.target.startswith(prefix):
                target = instead + request.target.removeprefix(prefix)
                return super().respond(replace(request, target=target))
        if request.path.startswith("/cdn/"):
            return super().respond(request)
        return Answer.of_json({"error": "this hub has data sets only"}, 404)


def rows(split: str, n: int = 4) -> bytes:
    lines = [{"prompt": f"{split} {i}", "completion": "x" * 50} for i in range(n)]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture
def hub() -> Iterator[DatasetHub]:
    with DatasetHub() as running:
        running.add_repo(
            "org/plain",
            {"README.md": b"# data", "data/train-0.jsonl": rows("train"),
             "dataset_infos.json": b"{}", "data/test-0.jsonl": rows("test"),
             "load.py": b"raise SystemExit"},
        )  # fmt: skip
        yield running


@pytest.fixture
def settings(hub: DatasetHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(hubs, "Patience", lambda: HASTE)
    return replace(config.load(home=home), hf_endpoint=hub.url)


def opened(text: str, settings: Settings) -> Dataset:
    return open_data(DataSpec((text,)), registry=Registry(settings.home), settings=settings)


def prompts(data: Dataset) -> list[str]:
    return [row.messages[0].content for row in data.records() if isinstance(row, Chat)]


def test_a_split_is_fetched_once_and_pinned(hub: DatasetHub, settings: Settings) -> None:
    data = opened("hf-dataset:org/plain", settings)
    commit = hub.repos["org/plain"].commit
    assert data.refs == (f"hf-dataset:org/plain@{commit}",)
    assert prompts(data) == [f"train {i}" for i in range(4)]
    assert data.files[0].name == "hf-dataset:org/plain/data/train-0.jsonl"
    assert data.files[0].path.is_relative_to(settings.home / "datasets" / "org" / "plain" / commit)
    assert not list((settings.home / "partial").glob("*"))
    fetched = [r for r in hub.requests if "/resolve/" in r.path]
    assert len(fetched) == len([r for r in fetched if "train-0" in r.path])
    hub.requests.clear()
    assert prompts(opened("hf-dataset:org/plain", settings)) == prompts(data)
    assert not [r for r in hub.requests if "/resolve/" in r.path]
    # pinned and all here: the network is asked nothing
    hub.requests.clear()
    away = replace(settings, offline=True)
    assert prompts(opened(data.refs[0], away)) == prompts(data)
    assert not hub.requests
    with pytest.raises(OfflineMode):
        opened("hf-dataset:org/plain", away)


def test_splits_and_files_can_be_named(settings: Settings) -> None:
    for part in ("test", "data/test-0.jsonl", "data/test*"):
        assert prompts(opened(f"hf-dataset:org/plain:{part}", settings))[0] == "test 0", part
    with pytest.raises(SourceNotFound, match="no split dev; it has test, train"):
        opened("hf-dataset:org/plain:dev", settings)
    with pytest.raises(SourceNotFound, match=r"no file is called x\.jsonl"):
        opened("hf-dataset:org/plain:x.jsonl", settings)


def test_an_interrupted_fetch_goes_on(hub: DatasetHub, settings: Settings) -> None:
    size = len(body := rows("all", 1) * 150_000)
    assert size > 10 << 20  # so large files come from the CDN, in parts
    hub.add_repo("org/large", {"all.jsonl": body})
    hub.fail("/cdn/*", Fault(cut_after=3_000_000))
    hub.fail("/cdn/*", Fault(drop=True), times=-1)
    with pytest.raises(SourceUnreachable):
        opened("hf-dataset:org/large", settings)
    hub.mend()
    hub.requests.clear()
    data = opened("hf-dataset:org/large", settings)
    assert data.files[0].size_bytes == size
    ranges = [r.headers.get("range", "") for r in hub.requests if r.path.startswith("/cdn/")]
    starts = [int(m[1]) for r in ranges if (m := re.match(r"bytes=(\d+)-", r))]
    assert starts
    assert min(starts) > 0  # what was here is not fetched again


def test_what_the_hub_refuses(hub: DatasetHub, settings: Settings) -> None:
    hub.add_repo("org/gated", {"a.jsonl": rows("x")}, gated="manual")
    with pytest.raises(AccessDenied, match="hf-dataset:org/gated is gated"):
        opened("hf-dataset:org/gated", settings)
    with pytest.raises(SourceNotFound, match="no data set org/none"):
        opened("hf-dataset:org/none", settings)
    with pytest.raises(SourceNotFound, match="no revision 'v9'"):
        opened("hf-dataset:org/plain@v9", settings)
    hub.add_repo("org/scripts", {"load.py": b"", "README.md": b""})
    with pytest.raises(SourceNotFound, match="no JSON lines, Parquet"):
        opened("hf-dataset:org/scripts", settings)


def test_a_token_opens_a_private_one(
    hub: DatasetHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/private", {"a.jsonl": rows("x")}, private=True)
    with pytest.raises(SourceNotFound):
        opened("hf-dataset:org/private", settings)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert len(prompts(opened("hf-dataset:org/private", settings))) == 4


def test_parquet_from_the_hub(hub: DatasetHub, settings: Settings) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    target = io.BytesIO()
    table = arrow.Table.from_pylist([{"question": "q", "answer": "a"}])
    parquet.write_table(table, target)
    hub.add_repo("org/parquet", {"en/train-00000-of-00001.parquet": target.getvalue()})
    assert prompts(opened("hf-dataset:org/parquet", settings)) == ["q"]


@pytest.mark.parametrize(
    ("text", "printed", "value"),
    [
        ("hf-dataset:org/name", None, DatasetRef("org/name")),
        ("hf-dataset:name", None, DatasetRef("name")),
        ("hf-dataset:org/name@v1.0:test", None, DatasetRef("org/name", "v1.0", "test")),
        ("hf-dataset:org/name:en/train", None, DatasetRef("org/name", None, "en/train")),
        ("hf-dataset:org/name:d/*.parquet", None, DatasetRef("org/name", None, "d/*.parquet")),
        ("https://huggingface.co/datasets/org/name", "hf-dataset:org/name", DatasetRef("org/name")),
        ("https://huggingface.co/datasets/org/name/viewer/default/train", "hf-dataset:org/name",
         DatasetRef("org/name")),
        ("https://huggingface.co/datasets/org/name/blob/main/a.jsonl",
         "hf-dataset:org/name:a.jsonl", DatasetRef("org/name", None, "a.jsonl")),
        ("hf.co/datasets/org/name/tree/v2", "hf-dataset:org/name@v2", DatasetRef("org/name", "v2")),
    ],
)  # fmt: skip
def test_references(text: str, printed: str | None, value: DatasetRef) -> None:
    assert DatasetRef.matches(text)
    assert DatasetRef.parse(text) == value
    assert str(value) == (printed or text)
    assert DatasetRef.parse(str(value)) == value


@pytest.mark.parametrize(
    "text", ["hf-dataset:", "hf-dataset:a/b/c", "hf-dataset:../x", "hf-dataset:a b"]
)
def test_references_that_are_none(text: str) -> None:
    with pytest.raises(InvalidReference):
        DatasetRef.parse(text)


CONFIGS = [
    {"config_name": "en", "data_files": [{"split": "train", "path": "en/*.parquet"},
                                         {"split": "test", "path": ["en_test.parquet"]}]},
    {"config_name": "de", "data_files": "de/*.parquet"},
]  # fmt: skip
NAMES = ["en/0.parquet", "en/1.parquet", "en_test.parquet", "de/0.parquet"]


@pytest.mark.parametrize(
    ("names", "part", "configs", "found"),
    [
        (["a.jsonl"], None, None, ["a.jsonl"]),
        (["a.jsonl", "b.jsonl"], None, None, ["a.jsonl", "b.jsonl"]),
        (["train.csv", "test.csv", "extra.csv"], None, None, ["train.csv"]),
        (["train.csv", "dev.csv"], "validation", None, ["dev.csv"]),
        (["x/training_set.json", "x/eval.json"], None, None, ["x/training_set.json"]),
        (["contest.json", "restrain.json"], None, None, ["contest.json", "restrain.json"]),
        (["only_test.jsonl"], None, None, ["only_test.jsonl"]),
        (["train.jsonl", "train.parquet"], None, None, ["train.jsonl"]),
        (["train-0.parquet", "train-1.parquet", "train.jsonl"], None, None,
         ["train-0.parquet", "train-1.parquet"]),
        (["train.jsonl.gz"], None, None, ["train.jsonl.gz"]),
        (NAMES, "en", CONFIGS, ["en/0.parquet", "en/1.parquet"]),
        (NAMES, "en/test", CONFIGS, ["en_test.parquet"]),
        (NAMES, "de", CONFIGS, ["de/0.parquet"]),
        (NAMES, "train", CONFIGS[:1], ["en/0.parquet", "en/1.parquet"]),
        (NAMES, None, [{"config_name": "x", "data_files": "gone/*"}], NAMES),
        (NAMES, None, "nonsense", NAMES),
    ],
)  # fmt: skip
def test_which_files_are_a_split(
    names: list[str], part: str | None, configs: Any, found: list[str]
) -> None:
    if names is NAMES and configs != CONFIGS and configs != CONFIGS[:1]:
        found = ["en_test.parquet"]  # the only one whose name says a split
    assert list(choose_files(names, part, configs).files) == found


def test_one_of_several_configurations_must_be_named() -> None:
    with pytest.raises(SourceNotFound, match="which of its configurations: de, en"):
        choose_files(NAMES, None, CONFIGS)


def test_nothing_is_pruned_while_a_run_reads_its_data(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set that no model names yet is being read: prune sees that somebody works."""
    from types import SimpleNamespace

    from localllm.errors import UsageProblem
    from localllm.finetune import data
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.request import read_data
    from localllm.registry.garbage import garbage
    from localllm.ui import Silent

    file = registry.home / "datasets" / "org" / "plain" / ("a" * 40) / "train.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(rows("train"))
    seen: list[set[Path]] = []

    def opening(*_: object, **__: object) -> Dataset:
        seen.append({one.path for one in garbage(registry)})
        raise UsageProblem("enough")

    monkeypatch.setattr(data, "open_data", opening)
    base: Any = SimpleNamespace(model=SimpleNamespace(name="b"))
    for source in ("hf-dataset:org/plain", "mine.jsonl"):
        with pytest.raises(UsageProblem, match="enough"):
            read_data(Recipe(data=(source,)), base, registry, Silent(), lambda text: None)
    assert seen == [set(), {file}]
    # from scratch the data is read again and again until it is tokens
    from localllm.finetune.scratch import run as scratch
    from localllm.finetune.scratch.recipe import TrainRecipe
    from localllm.ui import Sink

    monkeypatch.setattr(scratch, "_train", opening)
    for source in ("hf-dataset:org/plain", "mine.jsonl"):
        asked = scratch.Asked(TrainRecipe(data=(source,), name="t"))
        with pytest.raises(UsageProblem, match="enough"):
            scratch.train(asked, registry, Sink("train", progress="none"))
    assert seen[2:] == [set(), {file}]
    assert {one.path for one in garbage(registry)} == {file}
