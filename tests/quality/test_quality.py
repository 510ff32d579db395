"""quality from the command line: figures, what is kept, what is refused."""

from __future__ import annotations

import math
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.context import Context
from localllm.library.quality import judging
from localllm.registry import Registry
from tests.conftest import Done
from tests.quality.conftest import Stored
from tests.support.quality_models import broken
from tests.support.tiny_models import tiny_bert, tiny_llama

Cli = Callable[..., Done]
# one thread: see ONE_THREAD in tests.engine.conftest
SHORT = ("--ctx", "128", "--chunks", "9", "--threads", "1")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The file name of the model behind every llama_decode."""
    names: list[str] = []
    decode = Context.decode

    def spy(self: Context, batch: object) -> None:
        names.append(self.model.path.name)
        decode(self, batch)

    monkeypatch.setattr(Context, "decode", spy)
    return names


def figures(done: Done) -> Any:
    """The rows without what differs from run to run."""
    assert done.exit_code == 0, done
    return [{k: v for k, v in row.items() if k not in ("seconds", "measurement", "reused")}
            for row in done.data["rows"]]  # fmt: skip


def test_a_ladder_shares_one_pass_of_the_base(cli: Cli, files: Path, decoded: list[str]) -> None:
    done = cli("quality", files / "small.gguf", files / "smaller.gguf", "--base",
               files / "base.gguf", "--text", files / "text.txt", *SHORT, "--json")  # fmt: skip
    small, smaller = figures(done)
    assert decoded.count("base.gguf") == decoded.count("small.gguf") == 3  # four chunks at once
    assert 0 < small["mean_kld"] < smaller["mean_kld"]
    assert small["same_top"] > smaller["same_top"]
    against = smaller["figures"]["divergence"]["perplexity"]
    assert against["ratio"]["value"] == pytest.approx(
        smaller["perplexity"] / against["base_perplexity"]["value"]
    )
    assert smaller["figures"]["n_tokens"] == 9 * 63
    assert len(smaller["figures"]["chunk_kld"]) == 9
    assert done.data["base"]["name"].endswith("base.gguf")
    # alone it has the same perplexity, and so has the base
    for name, expected in (("smaller", smaller["perplexity"]),
                           ("base", against["base_perplexity"]["value"])):  # fmt: skip
        alone = cli("quality", files / f"{name}.gguf", "--text", files / "text.txt", *SHORT,
                    "--json")  # fmt: skip
        assert alone.data["rows"][0]["perplexity"] == expected
        assert alone.data["rows"][0]["mean_kld"] is None


def test_what_was_measured_is_kept_and_taken(
    cli: Cli, files: Path, stored: Stored, registry: Registry, decoded: list[str]
) -> None:
    stored("base", files / "base.gguf")
    model = stored("small", files / "small.gguf")
    command = ("quality", "small", "--base", "base", "--text", files / "text.txt", *SHORT)
    first = cli(*command, "--json")
    (kept,) = registry.measurements(model, "quality")
    assert first.data["rows"][0]["measurement"] == kept.id
    assert kept.data["base"]["sha256"] == registry.resolve("base").weights[0].sha256
    n = len(decoded)
    second = cli(*command, "--json")
    assert figures(second) == figures(first)
    assert (second.data["rows"][0]["reused"], second.data["rows"][0]["measurement"]) == (
        True, kept.id,
    )  # fmt: skip
    assert len(decoded) == n
    assert "--again" in cli(*command).err
    # any other question is measured
    for other in (("--again",), ("--kv", "f32"), ("--chunks", "8"), ("--ctx", "64")):
        assert not cli(*command, *other, "--json").data["rows"][0]["reused"]
    text = files / "other.txt"
    text.write_text(f"{(files / 'text.txt').read_text('utf-8')}.", encoding="utf-8")
    assert not cli("quality", "small", "--base", "base", "--text", text, *SHORT, "--json").data[
        "rows"
    ][0]["reused"]
    assert not cli("quality", "small", "--text", text, *SHORT, "--json").data["rows"][0]["reused"]
    assert len(registry.measurements(model, "quality")) == 7
    shown = cli("show", "small").out
    assert "perplexity" in shown and "mean_kld" in shown


def test_without_room_for_both_the_figures_are_the_same(
    cli: Cli, files: Path, home: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    command = ("quality", files / "small.gguf", files / "smaller.gguf", "--base",
               files / "base.gguf", "--text", files / "text.txt", *SHORT, "--json")  # fmt: skip
    together = cli(*command)
    assert decoded[:3] == ["base.gguf", "small.gguf", "smaller.gguf"]
    decoded.clear()
    monkeypatch.setattr(judging, "fit_together", lambda *_: False)
    assert figures(cli(*command)) == figures(together)
    assert decoded == ["base.gguf"] * 3 + ["small.gguf"] * 3 + ["smaller.gguf"] * 3
    assert list((home / "partial").iterdir()) == []


def test_base_figures_in_a_file(cli: Cli, files: Path, tmp_path: Path, decoded: list[str]) -> None:
    cache = tmp_path / "base.figures"
    text = ("--text", files / "text.txt", "--base-cache", cache, "--json")
    small = ("quality", files / "small.gguf", "--base", files / "base.gguf")
    first = cli(*small, *text, *SHORT)
    assert cache.stat().st_size > 0
    decoded.clear()
    assert figures(cli(*small, *text, *SHORT)) == figures(first)
    assert set(decoded) == {"small.gguf"}
    assert cli(*small, *text, *SHORT[:3], "5").data["rows"][0]["n_chunks"] == 5
    for args, said in (
        ((*small, *text, *SHORT[:3], "10"), "holds 9 chunks only"),
        ((*small, *text, "--ctx", "64"), "n_ctx 128"),
        ((*small[:3], files / "smaller.gguf", *text, *SHORT), "another base model"),
    ):
        done = cli(*args)
        assert done.exit_code == 2
        assert said in done.json["error"]["message"]
    cache.write_bytes(cache.read_bytes()[:-100])
    done = cli(*small, *text, *SHORT)
    assert done.exit_code == 7
    assert "cut off" in done.json["error"]["message"]


def test_a_broken_model_among_others(cli: Cli, files: Path, tmp_path: Path) -> None:
    nan = broken(tmp_path / "nan.gguf")
    command = ("--base", files / "base.gguf", "--text", files / "text.txt", *SHORT, "--json")
    done = cli("quality", nan, files / "small.gguf", *command)
    assert done.exit_code == 7
    assert [row["model"] for row in done.data["rows"]] == [str(files / "small.gguf")]
    (failed,) = done.data["failed"]
    assert (failed["model"], failed["kind"]) == (str(nan), "damaged_file")
    assert "NaN at chunk 1" in done.json["error"]["message"]
    alone = cli("quality", nan, *command)
    assert (alone.exit_code, alone.data) == (7, None)
    as_base = cli("quality", files / "small.gguf", "--base", nan, *command[2:])
    assert as_base.exit_code == 7


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 2, "holds no text"),
        (b" \n \n", 2, "holds no text"),
        (b"caf\xe9 " * 100, 2, "no UTF-8 text (byte 3)"),
        (b"too short", 2, "need at least 256"),
        (None, 3, "there is no file"),
    ],
)
def test_texts_that_cannot_be_used(
    cli: Cli, files: Path, tmp_path: Path, content: bytes | None, code: int, said: str
) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    done = cli("quality", files / "small.gguf", "--text", path, "--ctx", "128", "--json")
    assert done.exit_code == code
    assert said in done.json["error"]["message"]


def test_models_that_cannot_be_judged(cli: Cli, files: Path, tmp_path: Path) -> None:
    text = ("--text", files / "text.txt", *SHORT, "--json")
    bert = tiny_bert(tmp_path / "bert.gguf")
    assert "does not generate text" in cli("quality", bert, *text).json["error"]["message"]
    spm = tiny_llama(tmp_path / "spm.gguf", vocab="spm")
    done = cli("quality", spm, "--base", files / "base.gguf", *text)
    assert done.exit_code == 2
    assert "different vocabularies" in done.json["error"]["message"]
    assert cli("quality", spm, spm, *text).exit_code == 2
    folder = cli("quality", spm, "--base", spm, "--base-cache", tmp_path / "no" / "x", *text)
    assert folder.exit_code == 3


def test_a_context_beyond_training_is_said(cli: Cli, files: Path, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "short.gguf", n_ctx_train=64)
    done = cli("quality", model, "--text", files / "text.txt", *SHORT, "--json")
    assert done.exit_code == 0
    assert any("trained for 64" in warning for warning in done.json["warnings"])


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C in the sixth call of llama_decode."""
    decode = Context.decode
    calls = 0

    def stop(self: Context, batch: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
        decode(self, batch)

    monkeypatch.setattr(Context, "decode", stop)
    yield


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
def test_ctrl_c_shows_the_figures_so_far(
    cli: Cli, files: Path, stored: Stored, registry: Registry, interrupted: None
) -> None:
    model = stored("small", files / "small.gguf")
    done = cli("quality", "small", "--base", files / "base.gguf", "--text", files / "text.txt",
               *SHORT, "--json")  # fmt: skip
    assert done.exit_code == 130
    (row,) = done.data["rows"]
    assert (row["complete"], row["n_chunks"], row["figures"]["n_chunks"]) == (False, 9, 8)
    assert row["mean_kld"] > 0
    assert done.json["error"]["message"] == "interrupted after 8 of 9 chunks"
    assert registry.measurements(model, "quality") == ()


def test_figures_for_people(cli: Cli, files: Path) -> None:
    command = ("--base", files / "base.gguf", "--text", files / "text.txt", *SHORT)
    one = cli("quality", files / "small.gguf", *command)
    assert "By token" in one.out and "99.9 %" in one.out
    assert "9 contexts of 128 tokens, 567 scored" in one.err
    two = cli("quality", files / "small.gguf", files / "smaller.gguf", *command)
    assert "By token" not in two.out
    assert len(two.out.splitlines()) == 3


def test_progress_says_how_it_stands(cli: Cli, files: Path) -> None:
    import json

    done = cli("quality", files / "small.gguf", "--base", files / "base.gguf", "--text",
               files / "text.txt", *SHORT, "--json", "--progress", "json")  # fmt: skip
    lines = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    last = next(line for line in reversed(lines) if line["event"] == "done")
    assert (last["done"], last["total"]) == (18, 18)
    row = done.data["rows"][0]
    assert last["note"] == f"PPL {row['perplexity']:.4g}, KLD {row['mean_kld']:.4g}"


def test_the_built_in_text_is_the_default(cli: Cli, files: Path) -> None:
    done = cli("quality", files / "small.gguf", "--chunks", "2", "--json")
    assert done.exit_code == 0
    assert done.data["text"]["name"] == "localllm:evaluation"
    assert math.isfinite(done.data["rows"][0]["perplexity"])


def test_other_weights_behind_the_same_first_shard_are_measured_anew(
    cli: Cli, registry: Registry, files: Path, tmp_path: Path
) -> None:
    """A first shard without tensors is the same for every model of this shape."""
    import hashlib

    from localllm.refs import ModelRef
    from localllm.registry import Arrival, Staged
    from tests.support.tiny_models import llama_model, split

    def add(seed: int) -> str:
        folder = tmp_path / str(seed)
        folder.mkdir()
        shards = split(llama_model, folder, "big", n_shards=2, seed=seed)
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards]
        digests[0] = "0" * 64  # what such a shard has in common with the other's
        staged = tuple(
            Staged(path, path.name, path.stat().st_size, digest, "weights", in_place=True)
            for path, digest in zip(shards, digests, strict=True)
        )
        ref = ModelRef.parse("hf:org/big@c0ffee")
        return registry.add(Arrival("org/big", ref, "gguf", "hf", "org", "big", staged)).name

    measured = []
    for seed in (1, 1, 2):
        done = cli("quality", add(seed) if len(measured) != 1 else "org/big",
                   "--text", files / "text.txt", *SHORT, "--json")  # fmt: skip
        assert done.exit_code == 0, done
        measured.append(done.data["rows"][0])
    first, same, other = measured
    assert (first["reused"], same["reused"], other["reused"]) == (False, True, False)
    assert other["perplexity"] != first["perplexity"]


def test_figures_are_shown_where_they_cannot_be_kept(
    cli: Cli, files: Path, stored: Stored, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that is read-only says so when the figures are there: they may have taken an hour."""
    stored("small", files / "small.gguf")
    connect = sqlite3.connect

    def read_only(path: str, **options: Any) -> sqlite3.Connection:
        if "mode=rw" in path:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", read_only)
        done = cli("quality", "small", "--text", files / "text.txt", *SHORT, "--json")
    assert done.exit_code == 0, done
    assert done.data["rows"][0]["perplexity"] > 1
    assert done.data["rows"][0]["measurement"] is None
    assert any("the figures are not kept" in text for text in done.json["warnings"])
