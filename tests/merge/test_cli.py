"""`localllm merge` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.registry import Lineage, Registry
from tests.conftest import Done
from tests.library.merging.adapters import random_pair, write_lora
from tests.library.merging.reading import tensors_of
from tests.library.merging.test_refusals import nothing_left
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]
Q = "blk.0.attn_q.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "base.gguf", dtype="Q4_K")


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_lora(tmp_path / "style.gguf", {Q: random_pair(1, 256, 256, size=0.002)})


def test_merge_and_what_is_shown(
    cli: Cli, registry: Registry, base: Path, lora: Path, tmp_path: Path
) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text("the cat and the dog saw hello world in a garden\n" * 12, encoding="utf-8")
    done = cli(
        "merge",
        base,
        "--lora",
        f"{lora}:0.5",
        "--text",
        text,
        "--chunks",
        "3",
        "--json",
        "--allow-loss",
    )
    assert done.exit_code == 0, done
    data = done.data
    assert data["name"] == "base-style:Q5_K_M"
    assert data["adapters"] == [[str(lora), 0.5]]
    assert 0.8 < data["survival"]["share"] < 1.25
    assert data["loss"]["text"] == "held-out.txt"
    assert data["loss"]["n_chunks"] == 3
    assert all(data["loss"][key] > 0 for key in ("base", "with_adapters", "merged"))
    assert data["file_bytes"] == Path(data["model"]["files"][0]["path"]).stat().st_size
    made = registry.resolve("base-style:Q5_K_M").lineage
    assert made is not None
    assert made.operation == "merge"
    assert [name for name, digest in made.parents if digest] == [str(base), str(lora)]
    assert made.parameters == {"method": "lora", "type": "Q5_K_M", "scales": [0.5]}
    again = cli("merge", base, "--lora", f"{lora}:0.5", "--type", "q5_k_m", "--no-loss", "--json")
    assert again.data["reused"] is True
    shown = cli("show", "base-style:Q5_K_M").out
    assert f"merge Q5_K_M of {base}" in shown
    assert f"merge Q5_K_M of {lora}" in shown
    plain = cli("merge", base, "--lora", lora, "--no-loss", "--type", "Q8_0")
    assert plain.exit_code == 0
    assert "tuning kept" in plain.out
    assert Q in plain.out


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(
    cli: Cli, registry: Registry, base: Path, lora: Path
) -> None:
    planned = cli("merge", base, "--lora", lora, "--dry-run", "--type", "Q6_K", "--json")
    assert planned.exit_code == 0
    assert not registry.home.exists() or nothing_left(registry)
    made = cli("merge", base, "--lora", lora, "--type", "Q6_K", "--no-loss", "--json")
    assert planned.data["file_bytes"] == made.data["file_bytes"]
    types = {t["name"]: t["to_type"] for t in planned.data["tensors"]}
    assert types == {t["name"]: t["to_type"] for t in made.data["tensors"]}
    assert cli("merge", base, "--lora", lora, "--dry-run").out.count("attn_q.weight") == 2


def test_the_own_type_is_refused_with_the_type_that_keeps_it(
    cli: Cli, registry: Registry, base: Path, tmp_path: Path
) -> None:
    faint = write_lora(tmp_path / "faint.gguf", {Q: random_pair(1, 256, 256, size=3e-5)})
    done = cli("merge", base, "--lora", faint, "--type", "Q4_K_S", "--no-loss")
    assert done.exit_code == 5
    assert "% of what was tuned" in done.err
    assert "try: --type Q" in done.err
    assert nothing_left(registry)
    forced = cli(
        "merge", base, "--lora", faint, "--type", "Q4_K_S", "--no-loss", "--allow-loss", "--json"
    )
    assert forced.exit_code == 0
    assert forced.data["survival"]["share"] < 0.5


def test_whole_models_from_flags_and_from_files(cli: Cli, tmp_path: Path) -> None:
    base, a, b = (tiny_llama(tmp_path / f"{i}.gguf", seed=i, dtype="F32") for i in range(3))
    done = cli(
        "merge",
        a,
        b,
        "--method",
        "ties",
        "--base",
        base,
        "--density",
        "0.4",
        "--density",
        "0.8",
        "--weight",
        "0.5",
        "--json",
    )
    assert done.exit_code == 0, done
    yml = tmp_path / "m.yml"
    yml.write_text(
        f"""
merge_method: ties
base_model: {base}
models:
  - model: {a}
    parameters: {{weight: 0.5, density: 0.4}}
  - model: {b}
    parameters: {{weight: 0.5, density: 0.8}}
dtype: float32
tokenizer_source: base
""",
        encoding="utf-8",
    )
    toml = tmp_path / "m.toml"
    toml.write_text(
        f"""
merge_method = "ties"
base_model = '{base}'
name = "from-toml:F32"
type = "F32"
[[models]]
model = '{a}'
parameters = {{weight = 0.5, density = 0.4}}
[[models]]
model = '{b}'
parameters = {{weight = 0.5, density = 0.8}}
""",
        encoding="utf-8",
    )
    for config in (yml, toml):  # as some editors begin a file
        config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    one = cli("merge", "--config", yml, "--name", "from-yaml:F32", "--json")
    two = cli("merge", "--config", toml, "--json")
    assert one.exit_code == two.exit_code == 0, (one, two)
    assert two.data["name"] == "from-toml:F32"
    found = [tensors_of(Path(d.data["model"]["files"][0]["path"])) for d in (done, one, two)]
    for other in found[1:]:
        assert all(np.array_equal(found[0][name], other[name]) for name in other)
    stacked = cli(
        "merge", "--method", "passthrough", "--layers", f"{a}=0-2", "--layers", f"{b}=1-2"
    )
    assert stacked.exit_code == 0, stacked
    assert "its layer" in stacked.out


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", 2, "says nothing of a merge"),
        ("just words", 2, "says nothing"),
        ("merge_method: linear\nmodels: [{model: a}]\nweights: 3\n", 2, "weights is no key"),
        ("merge_method: linear\nmodels: [{model: a, wieght: 3}]\n", 2, "a model has no 'wieght'"),
        ("merge_method: karcher\nmodels: [{model: a}, {model: b}]\n", 2, "'karcher' is no method"),
        ("merge_method: linear\nmodels: [{model: a}]\n", 2, "one model alone"),
        ("merge_method: linear\nmodels: []\n", 2, "no list of anything"),
        ("merge_method: linear\nmodels: [{model: a+b}, {model: c}]\n", 2, "with an adapter"),
        ("merge_method: linear\nmodules: {x: 1}\n", 2, "modules is no key"),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [3, 1]}]}]\n",
            2,
            "layer_range",
        ),
        ("merge_method: linear\nmodels: &m [{model: a}]\nslices: *m\n", 2, "aliases"),
        (
            "merge_method: linear\nmodels: [{model: a}, {model: b}]\ndtype: int4\n",
            2,
            "dtype 'int4'",
        ),
        (
            "merge_method: linear\nmodels: [{model: nothing-a}, {model: nothing-b}]\n",
            3,
            "nothing-a",
        ),
        (": : [", 7, "is no YAML"),
        ("a: [" * 5000, 7, "is no YAML"),
        ("\udcff", 7, "no UTF-8"),
    ],
)
def test_configurations_that_mean_nothing(
    cli: Cli, registry: Registry, tmp_path: Path, text: str, code: int, said: str
) -> None:
    path = tmp_path / "m.yml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = cli("merge", "--config", path)
    assert done.exit_code == code, done
    assert said in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert nothing_left(registry)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "neither an adapter nor a method"),
        (["a", "b"], "neither an adapter nor a method"),
        (["a", "b", "--lora", "x"], "one base, and 2 models"),
        (["a", "--lora", "x", "--method", "ties"], "--method and --lora"),
        (["a", "b", "--method", "average"], "no method"),
        (
            ["a", "b", "--method", "linear", "--weight", "1", "--weight", "2", "--weight", "3"],
            "3 times",
        ),
        (["a", "b", "--method", "linear", "--t", "0.5"], "no parameter 't'"),
        (["a", "b", "--method", "ties"], "none is named"),
        (["--method", "passthrough", "--layers", "a=5"], "is not MODEL=FROM-TO"),
        (["a", "b", "--method", "linear", "--text", "x"], "--text measures what an adapter gained"),
        (["a", "b", "--method", "linear", "--any-base"], "--any-base is of adapters"),
        (["a", "--lora", "x", "--seed", "3"], "--seed is of dare"),
        (["a", "b", "--method", "linear", "--seed", "3"], "--seed is of dare"),
        (["a", "b", "--method", "linear", "--chunks", "3"], "--chunks is of the loss"),
        (["a", "b", "--method", "linear", "--no-loss"], "--no-loss is of the loss"),
    ],
)
def test_words_that_do_not_go_together(cli: Cli, args: list[str], said: str) -> None:
    done = cli("merge", *args)
    assert done.exit_code == 2
    assert said in done.err


def test_linear_with_a_base_among_its_models(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    a, b = (tiny_llama(tmp_path / f"{i}.gguf", seed=i, dtype="F32") for i in range(2))
    weights = ("--weight", 1 / 3, "--weight", 2 / 3)
    done = cli("merge", a, b, "--method", "linear", "--base", a, *weights, "--json")
    assert done.exit_code == 0, done
    made = registry.resolve(done.data["name"])
    assert made.lineage is not None
    words = made.lineage.command.split()
    assert [words[i + 1] for i, w in enumerate(words) if w == "--weight"] == [
        repr(1 / 3), repr(2 / 3)
    ]  # fmt: skip
    x, y, z = map(tensors_of, (a, b, made.path))
    np.testing.assert_allclose(z[Q], (x[Q] + 2 * y[Q]) / 3, atol=1e-6)
    assert cli("merge", a, b, "--method", "linear", "--base", b, "--weight", 0.5).exit_code == 0


def test_the_same_merge_by_other_words_is_not_made_twice(
    cli: Cli, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (tiny_llama(tmp_path / f"{i}.gguf", seed=i, dtype="F32") for i in range(2))
    args = ("--method", "linear", "--weight", "0.5", "--json")
    first = cli("merge", a, b, *args)
    monkeypatch.chdir(tmp_path)
    again = cli("merge", a.name, f"file:{b}", *args)
    assert (first.exit_code, again.exit_code) == (0, 0), again
    assert again.data["reused"] is True
    stacked = ("--method", "passthrough", "--json", "--layers")
    made = cli("merge", *stacked, f"{a}=0-2", "--layers", f"{b}=1-2")
    again = cli("merge", *stacked, f"{a.name}=0-2", "--layers", f"{b.name}=1-2")
    assert made.exit_code == 0, made
    assert again.data["reused"] is True
    lineage = registry.resolve(made.data["name"]).lineage
    assert lineage is not None and f"{a}=0-2" in lineage.command


def test_a_reused_merge_is_measured_too(
    cli: Cli, base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--text` is a gate: nothing passes it unmeasured."""
    from localllm.errors import DoesNotFit
    from localllm.library.merging import heldout

    text = tmp_path / "held-out.txt"
    text.write_text("the cat and the dog saw hello world in a garden\n" * 12, encoding="utf-8")
    args = ("merge", base, "--lora", lora, "--type", "Q8_0", "--text", text, "--chunks", "2")
    measured = heldout.held_out

    def tight(*given: Any) -> Any:
        raise DoesNotFit("too large")

    def worse(*given: Any) -> Any:
        return replace(measured(*given), kept=0.1)

    monkeypatch.setattr(heldout, "held_out", tight)
    done = cli(*args)
    assert done.exit_code == 4
    assert "--allow-loss" in done.err
    forced = cli(*args, "--allow-loss", "--json")
    assert (forced.exit_code, forced.data["loss"]) == (0, None)
    assert cli(*args).exit_code == 4
    monkeypatch.setattr(heldout, "held_out", worse)
    done = cli(*args)
    assert done.exit_code == 5
    assert "10 % of what the adapter gains" in done.err
    monkeypatch.setattr(heldout, "held_out", measured)
    again = cli(*args, "--allow-loss")
    assert again.exit_code == 0
    assert "already made" in again.err and "held-out.txt" in again.out


def test_an_adapter_of_another_model_by_its_lineage(
    cli: Cli, registry: Registry, base: Path, tmp_path: Path
) -> None:
    from localllm.library.lineage import lineage_metadata

    other = Lineage("finetune", (("their-model", "1" * 64),), "localllm finetune")
    lora = write_lora(
        tmp_path / "l.gguf", {Q: random_pair(1, 256, 256)}, metadata=dict(lineage_metadata(other))
    )
    done = cli("merge", base, "--lora", lora, "--no-loss")
    assert done.exit_code == 2
    assert "was trained on their-model (sha256 111111111111)" in done.err
    assert "--any-base" in done.err
    assert cli("merge", base, "--lora", lora, "--no-loss", "--any-base").exit_code == 0
    import hashlib

    own = Lineage("finetune", (("x", hashlib.sha256(base.read_bytes()).hexdigest()),), "finetune")
    mine = write_lora(
        tmp_path / "m.gguf", {Q: random_pair(2, 256, 256)}, metadata=dict(lineage_metadata(own))
    )
    assert cli("merge", base, "--lora", mine, "--no-loss").exit_code == 0
    # a model made from the one it was trained on
    assert cli("quantize", base, "Q8_0", "--allow-requantize").exit_code == 0
    assert cli("merge", "base:Q8_0", "--lora", mine, "--no-loss", "--type", "F16").exit_code == 0


def test_too_little_room_and_a_source_that_changes(
    cli: Cli,
    registry: Registry,
    base: Path,
    lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from localllm.library.merging.ggufout import GGUFOut

    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 1000))
        done = cli("merge", base, "--lora", lora, "--no-loss")
        assert done.exit_code == 1
        assert "free, the result needs" in done.err
    end = GGUFOut.end_tensor

    def and_touch(self: Any) -> None:
        end(self)
        os.utime(lora)

    with monkeypatch.context() as patch:
        patch.setattr(GGUFOut, "end_tensor", and_touch)
        done = cli("merge", base, "--lora", lora, "--no-loss")
        assert done.exit_code == 7
        assert "style.gguf changed while it was being read" in done.err

    def full(self: Any) -> None:
        raise OSError(28, "No space left on device", str(self.path))

    with monkeypatch.context() as patch:
        patch.setattr(GGUFOut, "end_tensor", full)
        done = cli("merge", base, "--lora", lora, "--no-loss")
        assert done.exit_code == 1
    assert nothing_left(registry)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT and SIGKILL")
@pytest.mark.parametrize("with_", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_nothing_has_a_name(
    home: Path, registry: Registry, tmp_path: Path, with_: signal.Signals
) -> None:
    a, b = (
        tiny_llama(tmp_path / f"{i}.gguf", seed=i, n_layer=4, n_embd=512, n_ff=2048) for i in (1, 2)
    )
    args = ["merge", str(a), str(b), "--method", "linear", "--weight", "0.5", "--threads", "1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "localllm", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while not list(home.glob("partial/*.part")) and child.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    child.send_signal(with_)
    child.communicate(timeout=60)
    assert child.returncode in (130, -signal.SIGKILL)
    assert registry.models() == ()
    assert not list(home.rglob("*.gguf"))
    if with_ is signal.SIGINT:
        assert not list(home.glob("partial/*.part"))
    done = subprocess.run(
        [sys.executable, "-m", "localllm", *args, "--json"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["data"]["reused"] is False
    assert not list(home.glob("partial/*.part"))


def test_a_dry_run_knows_the_base_by_its_content(cli: Cli, base: Path, tmp_path: Path) -> None:
    import hashlib

    from localllm.library.lineage import lineage_metadata

    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    own = Lineage("finetune", (("x", digest),), "finetune")
    lora = write_lora(
        tmp_path / "m.gguf",
        {Q: random_pair(2, 256, 256)},
        metadata=dict(lineage_metadata(own)),
    )
    assert cli("merge", base, "--lora", lora, "--dry-run").exit_code == 0


def test_what_is_wrong_is_laid_at_the_right_door(
    cli: Cli, registry: Registry, base: Path, lora: Path, tmp_path: Path
) -> None:
    """An adapter made far too strong: not the base's weights, and no option that merge has not."""
    whole = tiny_llama(tmp_path / "whole.gguf")
    values = {"blk.0.attn_v.weight": random_pair(1, 256, 128)}  # beyond what a cache in F16 holds
    strong = write_lora(tmp_path / "strong.gguf", values)
    done = cli("merge", whole, "--lora", f"{strong}:1e9", "--type", "F32", "--json")
    error = done.json["error"]
    assert "with its adapters: a scale is too large" in error["message"]
    assert "--lora ADAPTER:1" in error["hint"]
    beyond = cli("merge", whole, "--lora", f"{strong}:1e30", "--type", "F32", "--json")
    assert "nan" not in beyond.json["error"]["message"]
    assert beyond.json["error"]["hint"] == "a smaller scale"
    other = cli("merge", base, lora, "--method", "linear", "--json")
    assert "but an adapter" in other.json["error"]["message"]
    assert f"--lora {lora} makes" in other.json["error"]["hint"]
    assert nothing_left(registry)
