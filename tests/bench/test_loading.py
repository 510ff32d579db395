"""Load times in fresh processes, and the page cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from localllm.errors import DamagedFile, DoesNotFit, EngineError, FileGone
from localllm.library.bench.measuring.loading import load_times
from localllm.library.bench.measuring.page_cache import evict, resident_share
from localllm.placement import PlanOptions
from tests.support.tiny_models import llama_model, split, tiny_llama

linux = pytest.mark.skipif(
    not hasattr(os, "posix_fadvise") or sys.platform != "linux", reason="posix_fadvise and mincore"
)
SMALL = PlanOptions(n_ctx=256)


@linux
def test_a_file_leaves_the_page_cache_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(8 << 20))
    assert resident_share(file) > 0.9
    reason = evict([file])
    if reason is not None and resident_share(file) == 1.0:
        pytest.skip("this file system is in memory")
    assert resident_share(file) < 0.01
    with file.open("rb") as opened:
        opened.read(4 << 20)
    assert 0.45 < resident_share(file) <= 1.0  # the system reads ahead
    (tmp_path / "empty").touch()
    assert resident_share(tmp_path / "empty") == 0.0


@linux
def test_a_file_that_is_in_use_cannot_be_dropped(tmp_path: Path) -> None:
    import mmap

    file = tmp_path / "model.gguf"
    file.write_bytes(os.urandom(4 << 20))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) >= 0  # every page is mapped
        reason = evict([file])
    assert reason is not None
    assert "model.gguf stayed in the cache" in reason


def test_no_such_call_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    path = tiny_llama(tmp_path / "m.gguf")
    steps: list[int] = []
    found = load_times(path, SMALL, repetitions=1, advance=steps.append)
    assert found.cold_s == ()
    assert "cannot be asked" in (found.cold_refused or "")
    assert len(found.warm_s) == 1
    assert sum(steps) == 3


@linux
def test_cold_and_warm_loads_of_a_split_model(tmp_path: Path) -> None:
    first = split(llama_model, tmp_path, "big", n_shards=3, n_layer=4)[0]
    steps: list[int] = []
    found = load_times(first, SMALL, repetitions=2, advance=steps.append)
    assert len(found.warm_s) == 2 and all(0 < s < 60 for s in found.warm_s)
    assert len(found.cold_s) == (2 if found.cold_refused is None else 0)
    assert sum(steps) == 5


def test_what_does_not_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileGone):
        load_times(tmp_path / "none.gguf", SMALL, repetitions=1, cold=False)
    damaged = tiny_llama(tmp_path / "m.gguf")
    damaged.write_bytes(damaged.read_bytes()[:-5000])
    with pytest.raises(DamagedFile):
        load_times(damaged, SMALL, repetitions=1)
    large = tiny_llama(tmp_path / "l.gguf")
    with pytest.raises(DoesNotFit):
        load_times(large, PlanOptions(n_ctx=1 << 30), repetitions=1, cold=False)


def test_a_load_that_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"m\.gguf did not load within 0\.01 seconds"):
        load_times(tiny_llama(tmp_path / "m.gguf"), SMALL, cold=False, timeout_s=0.01)
