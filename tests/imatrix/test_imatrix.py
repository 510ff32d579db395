"""`localllm imatrix`: made, gone on with, merged, shown; and everything that is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from localllm.errors import Interrupted
from localllm.formats.imatrix import read_imatrix
from localllm.imatrix.statistics import layer_statistics, tensor_statistics
from localllm.library import find_gguf
from localllm.library.imatrix import (
    ImatrixOptions,
    find_imatrix,
    make_imatrix,
    read_texts,
)
from localllm.registry import Model, Registry
from localllm.ui.progress import Silent
from tests.conftest import Done, arrival
from tests.imatrix.models import CHUNK_SIZE, FIXTURES, TEXT, small_llama, small_moe

Cli = Callable[..., Done]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return small_llama(tmp_path / "small.gguf")


@pytest.fixture
def model(registry: Registry, path: Path, tmp_path: Path) -> Model:
    staged = tmp_path / "staged.gguf"
    shutil.copyfile(path, staged)
    return registry.add(arrival("small", staged, file_name="small.gguf"))


def args(*more: object) -> tuple[object, ...]:
    return ("imatrix", "--text", TEXT, "--chunk-size", CHUNK_SIZE, "-t", 1, *more)


# --- making -------------------------------------------------------------------------------


def test_made_kept_found_and_reused(cli: Cli, model: Model, registry: Registry) -> None:
    done = cli(*args(model.name, "--json"))
    assert done.exit_code == 0, done.err
    made = done.data
    theirs = read_imatrix(FIXTURES / "llama.imatrix.gguf")
    assert made["n_chunks"] == theirs.chunk_count
    assert made["n_tokens"] == theirs.chunk_count * CHUNK_SIZE
    assert made["n_tensors"] == len(theirs.entries)
    assert not made["reused"]
    assert Path(made["path"]).is_relative_to(registry.home / "imatrix")
    assert find_imatrix(model, registry) == Path(made["path"])
    facts = read_imatrix(Path(made["path"])).facts
    assert facts["model_sha256"] == model.weights[0].sha256
    assert facts["model"] == model.name
    again = cli(*args(model.name, "--json")).data
    assert again["reused"]
    assert again["path"] == made["path"]
    assert list((registry.home / "partial").iterdir()) == []


def test_a_matrix_of_other_weights_is_not_found(
    cli: Cli, model: Model, registry: Registry, tmp_path: Path
) -> None:
    assert find_imatrix(model, registry) is None
    assert cli(*args(model.name)).exit_code == 0
    other = small_llama(tmp_path / "other.gguf", seed=5)
    replaced = registry.add(arrival("small", other, file_name="small.gguf"))
    assert replaced.name == model.name
    assert find_imatrix(replaced, registry) is None


def test_the_built_in_text(cli: Cli, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    done = cli("imatrix", path, "--out", out, "--chunks", 3, "--chunk-size", 64, "-t", 1, "--json")
    assert done.exit_code == 0, done.err
    assert done.data["datasets"] == ["localllm:calibration"]
    assert done.data["n_tokens"] == 192
    assert read_imatrix(out).datasets == ("localllm:calibration",)


def test_several_texts_and_the_output(cli: Cli, path: Path, tmp_path: Path) -> None:
    second = tmp_path / "zweiter.txt"
    second.write_bytes(b"\xef\xbb\xbf" + ("Noch ein Text. " * 40).encode())
    out = tmp_path / "m.gguf"
    done = cli(*args(path, "--text", second, "--out", out, "--output", "--json"))
    assert done.exit_code == 0, done.err
    assert done.data["datasets"] == ["text.txt", "zweiter.txt"]
    assert len(done.data["text_sha256"].split()) == 2
    assert "output.weight" in read_imatrix(out).entries


def test_experts_that_nothing_reached_are_named(cli: Cli, tmp_path: Path) -> None:
    path = small_moe(tmp_path / "moe.gguf", n_expert=32, n_expert_used=1)
    text = tmp_path / "short.txt"
    text.write_text("a" * 200)
    done = cli("imatrix", path, "--text", text, "--chunk-size", 16, "--chunks", 1,
               "-t", 1, "--out", tmp_path / "m.gguf", "--json")  # fmt: skip
    assert done.exit_code == 0, done.err
    quiet = {q["tensor"]: q for q in done.data["quiet"]}
    counts = read_imatrix(tmp_path / "m.gguf").entries["blk.0.ffn_down_exps.weight"].counts
    assert quiet["blk.0.ffn_down_exps.weight"]["experts"] == [
        int(n) for n in np.flatnonzero(counts == 0)
    ]
    assert counts.sum() == 16
    (warning,) = done.json["warnings"]
    assert "of 32 experts of blk.0.ffn_down_exps.weight" in warning
    assert "--merge" in warning


# --- interrupted and gone on with -----------------------------------------------------------


class Stopping(Silent):
    """Presses Ctrl-C when so many chunks are done."""

    def __init__(self, after: int) -> None:
        self.after = after

    @contextmanager
    def meter(self, label: str, total: int | None, unit: object) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            if "imatrix" in label and amount and done >= self.after:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize("to_file", [True, False])
def test_interrupted_and_gone_on_with_gives_the_same_bytes(
    to_file: bool, model: Model, registry: Registry, tmp_path: Path
) -> None:
    text, options = read_texts([TEXT]), ImatrixOptions(chunk_size=CHUNK_SIZE, n_threads=1)
    whole = make_imatrix(
        model, registry, Silent(), print, text, options, out=tmp_path / "whole.gguf"
    )
    out = tmp_path / "m.gguf" if to_file else None
    for after, said in ((3, "after 3 of"), (7, "after 7 of")):
        with pytest.raises(Interrupted, match=said):
            make_imatrix(model, registry, Stopping(after), print, text, options, out=out)
        assert out is None or not out.exists()
    notes: list[str] = []
    made = make_imatrix(model, registry, Silent(), notes.append, text, options, out=out)
    assert made.n_resumed == 7
    assert any("going on after 7 of" in note for note in notes)
    assert made.path.read_bytes() == whole.path.read_bytes()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process on Windows")
def test_ctrl_c_in_the_shell(path: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    command = [sys.executable, "-m", "localllm", "imatrix", str(path), "--chunk-size", "64",
               "-t", "1", "--out", str(out), "--progress", "json"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["label"].startswith("imatrix") and event["done"] >= 2:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "interrupted after" in rest
    assert "the same command goes on" in rest
    assert not out.exists()
    saved = read_imatrix(out.with_name("m.gguf.part"))
    assert saved.chunk_count >= 2
    assert {int(e.counts.max()) for e in saved.entries.values()} == {saved.chunk_count * 64}


def test_a_checkpoint_of_another_run_is_refused(cli: Cli, path: Path, tmp_path: Path) -> None:
    out, part = tmp_path / "m.gguf", tmp_path / "m.gguf.part"
    assert cli(*args(path, "--out", part)).exit_code == 0  # a whole matrix is a checkpoint too
    other = small_llama(tmp_path / "other.gguf", seed=9)
    for command, differs in (
        (args(other, "--out", out), "model"),
        (("imatrix", path, "--chunk-size", 64, "--out", out), "text"),
        (args(path, "--out", out, "--output"), "output"),
        (("imatrix", path, "--text", TEXT, "--chunk-size", 64, "--out", out), "chunk_size"),
    ):
        done = cli(*command)
        assert done.exit_code == 2, done.err
        assert f"its {differs} differs" in done.err
        assert "--no-resume" in done.err
    assert cli(*args(other, "--out", out, "--no-resume", "--chunks", 1)).exit_code == 0
    assert not part.exists()


def test_a_damaged_checkpoint_is_begun_anew(cli: Cli, path: Path, tmp_path: Path) -> None:
    part = tmp_path / "m.gguf.part"
    part.write_bytes((FIXTURES / "llama.imatrix.gguf").read_bytes()[:3000])
    done = cli(*args(path, "--out", tmp_path / "m.gguf", "--chunks", 2))
    assert done.exit_code == 0
    assert "beginning anew" in done.err


# --- merging ----------------------------------------------------------------------------------


def test_two_halves_merge_to_the_whole(cli: Cli, path: Path, tmp_path: Path) -> None:
    """Chunks do not see each other, so two texts cut at a chunk's edge are one."""
    from localllm.engine.model import Model as Loaded

    with Loaded.load(path) as loaded:
        tokenizer = loaded.tokenizer
        tokens = tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special=False)
        edge = 4 * CHUNK_SIZE
        for name, part in (("a", tokens[:edge]), ("b", tokens[edge:])):
            (tmp_path / f"{name}.txt").write_bytes(tokenizer.decode_bytes(part))
    for name in ("a", "b"):
        done = cli("imatrix", path, "--text", tmp_path / f"{name}.txt", "--chunk-size", CHUNK_SIZE,
                   "-t", 1, "--out", tmp_path / f"{name}.gguf")  # fmt: skip
        assert done.exit_code == 0, done.err
    parts = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    done = cli("imatrix", "--merge", *parts, "--out", tmp_path / "c.gguf", "--json")
    assert done.exit_code == 0, done.err
    assert done.data["datasets"] == ["a.txt", "b.txt"]
    a, b, c = (read_imatrix(p) for p in (*parts, tmp_path / "c.gguf"))
    for name, entry in c.entries.items():
        assert (entry.squares == a.entries[name].squares + b.entries[name].squares).all()
        assert (entry.counts == a.entries[name].counts + b.entries[name].counts).all()
    assert c.facts["tokens"] == str((a.chunk_count + b.chunk_count) * CHUNK_SIZE)


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        (("llama.imatrix.gguf", "moe.imatrix.gguf"), 2, "different models"),
        (("llama.imatrix.gguf",), 2, "two matrices at least"),
        (("llama.imatrix.gguf", "llama.imatrix.gguf"), 2, "named twice"),
        (("llama.imatrix.gguf", "none.gguf"), 3, "no importance matrix"),
        (("llama.imatrix.gguf", "text.txt"), 7, "no importance matrix"),
    ],
)
def test_what_cannot_be_merged(
    files: tuple[str, ...], code: int, says: str, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "c.gguf"
    done = cli("imatrix", "--merge", *(FIXTURES / f for f in files), "--out", out)
    assert done.exit_code == code
    assert says in done.err
    assert not out.exists()


# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_the_statistics_of_llama_imatrix(name: str) -> None:
    """Row for row what `llama-imatrix --show-statistics` printed, to its digits."""
    lines = (FIXTURES / f"{name}.statistics.txt").read_text(encoding="utf-8").splitlines()
    theirs = [line.split() for line in lines if line.count("%") == 3 and "Active" not in line]
    made = tensor_statistics(read_imatrix(FIXTURES / f"{name}.imatrix.gguf").entries)
    assert len(theirs) == len(made)
    rows = {(r[0], r[1]): [float(cell.rstrip("%")) for cell in r[2:]] for r in theirs}
    for t in made:
        kind = t.tensor.split(".")[2]
        ours = [t.total, t.min, t.max, t.mean, t.std, 100 * t.active, t.n_inputs, t.entropy_bits,
                100 * t.entropy_share, 100 * t.zd, t.cosine or 0.0]  # fmt: skip
        assert ours == pytest.approx(rows[str(t.layer), kind], abs=0.0051), t.tensor
    assert [(str(t.layer), t.tensor.split(".")[2]) for t in made] == list(rows)
    layers = [line.split() for line in lines if line.count("%") == 1 and "Layer" not in line]
    for row, ours in zip(layers, layer_statistics(made), strict=True):
        assert int(row[0]) == ours.layer
        assert [ours.total, 100 * ours.zd, ours.cosine] == pytest.approx(
            [float(row[1]), float(row[2].rstrip("%")), float(row[3])], abs=0.0051
        )


def test_shown_of_a_file_and_of_a_model(cli: Cli, model: Model) -> None:
    shown = cli("imatrix", "--show", FIXTURES / "moe.imatrix.gguf", "--json").data
    assert shown["datasets"] == ["text.txt"]
    assert {t["n_experts"] for t in shown["tensors"]} == {1, 6}
    assert shown["model"] is None
    none = cli("imatrix", "--show", model.name)
    assert none.exit_code == 3
    assert f"try: localllm imatrix {model.name}" in none.err
    assert cli(*args(model.name)).exit_code == 0
    shown = cli("imatrix", "--show", model.name, "--json").data
    assert shown["model"] == model.name
    assert shown["n_tokens"] == shown["n_chunks"] * CHUNK_SIZE
    table = cli("imatrix", "--show", model.name)
    assert "blk.0.attn_q.weight" in table.out


def test_shown_of_the_old_format(cli: Cli) -> None:
    shown = cli("imatrix", "--show", FIXTURES / "llama.imatrix.dat", "--json").data
    assert len(shown["tensors"]) == 14


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "a chunk needs 128"),
        (b"too short", "a chunk needs 128"),
        ("Müßig".encode("latin-1") * 500, "is no UTF-8 text (byte 1)"),
        (b"zero \0 bytes " * 500, "zero bytes"),
        ("utf-16".encode("utf-16") * 500, "is no UTF-8 text"),
    ],
)
def test_texts_that_are_none(
    content: bytes, says: str, cli: Cli, path: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    done = cli("imatrix", path, "--text", text, "--chunk-size", 128, "--out", tmp_path / "m.gguf")
    assert done.exit_code == 2
    assert says in done.err
    assert len(done.err.splitlines()) <= 2
    assert not (tmp_path / "m.gguf").exists()


def test_command_lines_that_are_wrong(cli: Cli, path: Path, tmp_path: Path) -> None:
    for command, code in (
        ((path, "--text", tmp_path / "none.txt"), 3),
        ((path, "--text", tmp_path), 2),
        ((tmp_path / "none.gguf",), 3),
        ((path, TEXT), 2),
        (("--merge", "--show", path), 2),
        (("--merge", path, path), 2),
        ((path, "--chunk-size", 8), 2),
        ((path, "--chunks", 0), 2),
        ((path, "--out", tmp_path / "no" / "m.gguf"), 3),
        ((path, "--out", tmp_path), 1),
        ((FIXTURES / "llama.imatrix.gguf",), 7),
        (("--show", path), 3),
        (("--show", TEXT), 7),
    ):
        done = cli("imatrix", *command)
        assert done.exit_code == code, (command, done.err)
        assert done.err.startswith(("error:", "note")), done.err
        assert "Traceback" not in done.err


def test_an_out_that_cannot_be_written_is_known_before_the_work(
    model: Model, registry: Registry, tmp_path: Path
) -> None:
    from localllm.errors import LocalLLMError

    out = tmp_path / "folder"
    out.mkdir()

    class Never(Silent):
        def steps(self, label: str, total: int | None) -> object:  # type: ignore[override]
            raise AssertionError("the work was begun")

    with pytest.raises(LocalLLMError, match="cannot be written"):
        make_imatrix(model, registry, Never(), print, read_texts([TEXT]), out=out)


def test_a_loose_file_is_measured_too(
    cli: Cli, path: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli(*args(path, "--chunks", 2, "--json"))
    assert done.exit_code == 0, done.err
    assert find_imatrix(find_gguf(str(path), registry), registry) == Path(done.data["path"])
    (tmp_path / "elsewhere").mkdir()
    namesake = small_llama(tmp_path / "elsewhere" / path.name, seed=4)
    assert find_imatrix(find_gguf(str(namesake), registry), registry) is None
    other = cli(*args(namesake, "--chunks", 2, "--json")).data
    assert not other["reused"]
    monkeypatch.chdir(tmp_path)
    assert cli(*args(path.name, "--chunks", 2, "--json")).data["path"] == done.data["path"]


@pytest.mark.model
def test_the_real_model(cli: Cli, real_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    done = cli("imatrix", real_gguf, "--chunks", 2, "--output", "--out", out, "--json")
    assert done.exit_code == 0, done.err
    entries = read_imatrix(out).entries
    assert done.data["n_tensors"] == 18 * 7 + 1  # q k v o gate up down, and the tied embedding
    assert entries["token_embd.weight"].squares.size == 640
    assert {int(e.counts[0]) for e in entries.values()} == {1024}
    # One input for q, k and v, and one for gate and up
    for a, b in (("attn_q", "attn_v"), ("ffn_gate", "ffn_up")):
        pair = [entries[f"blk.17.{name}.weight"].squares for name in (a, b)]
        assert (pair[0] == pair[1]).all()


def test_from_a_chunk_on_adds_up_to_the_whole(cli: Cli, path: Path, tmp_path: Path) -> None:
    """The way of making one on several machines."""
    whole, head, tail, both = (tmp_path / f"{n}.gguf" for n in ("whole", "head", "tail", "both"))
    for out, more in ((whole, ()), (head, ("--chunks", 3)), (tail, ("--from-chunk", 3))):
        done = cli(*args(path, "--out", out, *more))
        assert done.exit_code == 0, done.err
    assert cli("imatrix", "--merge", head, tail, "--out", both).exit_code == 0
    expected, found = read_imatrix(whole), read_imatrix(both)
    assert found.chunk_count == expected.chunk_count
    for name, entry in expected.entries.items():
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
        np.testing.assert_allclose(found.entries[name].squares, entry.squares, rtol=1e-5)
    done = cli(*args(path, "--out", tmp_path / "n.gguf", "--from-chunk", 1000))
    assert done.exit_code == 2
    assert "after --from-chunk 1000" in done.err


def test_control_tokens_of_the_text_only_where_asked(
    cli: Cli, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.engine.tokenizer import Tokenizer

    text = tmp_path / "chat.txt"
    text.write_text("<|im_start|>user\nhello<|im_end|>\n" * 60)
    seen: list[list[int]] = []
    encode = Tokenizer.encode

    def spy(self: Tokenizer, *words: object, **more: object) -> list[int]:
        seen.append(encode(self, *words, **more))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(Tokenizer, "encode", spy)
    short = ("imatrix", path, "--text", text, "--chunk-size", 16, "--chunks", 1, "-t", 1)
    for out, more in (("a.gguf", ()), ("b.gguf", ("--parse-special",))):
        done = cli(*short, "--out", tmp_path / out, *more)
        assert done.exit_code == 0, done.err
    plain, special = seen
    assert len(special) <= len(plain) - 120 * 5  # a token where there were its letters
    done = cli(*short, "--out", tmp_path / "a.gguf", "--parse-special", "--json")
    assert done.data["n_resumed"] == 0
