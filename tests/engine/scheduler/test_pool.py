"""Models that come and go, with real models in some tests and plain stand-ins in the others
(what is loaded matters nothing there)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.scheduler import (
    Busy,
    ModelPool,
    SharedGenerator,
    Stopped,
)
from localllm.errors import DoesNotFit, FileGone
from localllm.generation import Sampling
from tests.engine.conftest import ONE_THREAD
from tests.engine.scheduler.test_scheduler import eventually
from tests.support.tiny_models import tiny_llama

GREEDY = Sampling(temperature=0.0, max_tokens=5)


@dataclass
class Thing:
    name: str
    idle: bool = True
    alive: bool = True
    closed: bool = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@dataclass
class Shelf:
    """Opens Things; `capacity` of them fit."""

    capacity: int = 2
    delay_s: float = 0.0
    opened: list[Thing] = field(default_factory=list)
    error: Exception | None = None
    loading: int = 0

    def fits(self, name: str, loaded: Sequence[str]) -> bool:
        assert name not in loaded
        return len(loaded) < self.capacity

    def open(self, name: str) -> Thing:
        self.loading += 1
        assert self.loading == 1, "one load at a time"
        time.sleep(self.delay_s)
        self.loading -= 1
        if self.error is not None:
            raise self.error
        self.opened.append(Thing(name))
        return self.opened[-1]


def test_the_least_recently_used_makes_room() -> None:
    shelf = Shelf()
    with ModelPool(shelf) as pool:
        for name in ("a", "b", "a", "c", "a"):
            with pool.lease(name) as thing:
                assert thing.name == name
        assert [thing.name for thing in shelf.opened] == ["a", "b", "c"]
        assert [thing.closed for thing in shelf.opened] == [False, True, False]
        assert [one.name for one in pool.loaded()] == ["a", "c"]
    assert all(thing.closed for thing in shelf.opened)
    with pytest.raises(Stopped):
        pool.lease("a")


def test_what_is_in_use_is_not_unloaded() -> None:
    shelf = Shelf(capacity=1)
    with ModelPool(shelf, wait_s=0.3) as pool:
        lease = pool.lease("a")
        with pytest.raises(Busy):
            pool.lease("b")
        lease.resident.idle = False
        lease.release()
        lease.release()
        with pytest.raises(Busy):  # still answering somebody
            pool.lease("b")
        threading.Timer(0.1, lambda: setattr(lease.resident, "idle", True)).start()
        with pool.lease("b") as thing:
            assert thing.name == "b"
        assert lease.resident.closed


def test_many_who_ask_at_once_load_it_once() -> None:
    shelf = Shelf(delay_s=0.05)
    found: list[Thing] = []
    with ModelPool(shelf) as pool:

        def ask() -> None:
            with pool.lease("a") as thing:
                found.append(thing)

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 20
        assert len(shelf.opened) == 1


def test_an_error_reaches_everyone_and_the_next_tries_again() -> None:
    shelf = Shelf(delay_s=0.05, error=DoesNotFit("a needs more"))
    errors: list[BaseException] = []
    with ModelPool(shelf) as pool:

        def ask() -> None:
            try:
                pool.lease("a")
            except DoesNotFit as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 5
        assert pool.loaded() == ()
        shelf.error = None
        with pool.lease("a"):
            pass


def test_keep_alive() -> None:
    shelf = Shelf(capacity=3)
    with ModelPool(shelf, keep_alive_s=0.1) as pool:
        with pool.lease("a"):
            time.sleep(0.3)
            assert not shelf.opened[0].closed
            assert pool.loaded()[0].expires_s is None
        pool.lease("b", keep_alive_s=float("inf")).release()
        assert eventually(lambda: shelf.opened[0].closed)
        assert [one.name for one in pool.loaded()] == ["b"]
        pool.lease("b", keep_alive_s=0).release()
        assert eventually(lambda: shelf.opened[1].closed)


def test_unloading_by_name() -> None:
    shelf = Shelf()
    with ModelPool(shelf) as pool:
        lease = pool.lease("a")
        assert not pool.unload("a")
        lease.release()
        assert pool.unload("a")
        assert shelf.opened[0].closed
        assert pool.unload("never there")


def test_one_whose_engine_failed_is_loaded_anew() -> None:
    shelf = Shelf()
    with ModelPool(shelf) as pool:
        with pool.lease("a") as thing:
            thing.alive = False
        with pool.lease("a") as again:
            assert again is not thing
        assert thing.closed


class Tiny:
    """Real models of a folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fits(self, name: str, loaded: Sequence[str]) -> bool:
        return not loaded

    def open(self, name: str) -> SharedGenerator:
        model = Model.load(self.folder / name)
        context = Context(model, replace(ONE_THREAD, n_seq_max=2, kv_unified=True))
        return SharedGenerator(context, name, owns_model=True)


def test_real_models_and_a_file_that_goes_away(tmp_path: Path) -> None:
    for i in range(2):
        tiny_llama(tmp_path / f"{i}.gguf", seed=i)
    answers = []
    with ModelPool(Tiny(tmp_path)) as pool:
        for name in ("0.gguf", "1.gguf", "0.gguf"):
            with pool.lease(name) as model:
                answers.append(model.complete("hello", GREEDY).results()[0].tokens)
        (tmp_path / "0.gguf").unlink()
        with pool.lease("0.gguf") as model:  # it is loaded, and goes on
            answers.append(model.complete("hello", GREEDY).results()[0].tokens)
            with pytest.raises(FileGone):
                Tiny(tmp_path).open("0.gguf")
        with pool.lease("1.gguf"):
            pass
        with pytest.raises(FileGone, match=r"0\.gguf"):
            pool.lease("0.gguf")
        with pool.lease("1.gguf") as model:
            answers.append(model.complete("hello", GREEDY).results()[0].tokens)
    assert answers[0] == answers[2] == answers[3] != answers[1] == answers[4]
