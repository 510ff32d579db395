"""quantize --ladder: rungs, their figures, the front, the recommendation, and going on."""

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
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.context import Context
from localllm.quantize.measured.measurer import Measurer
from localllm.registry import Registry
from tests.conftest import Done
from tests.quantize.conftest import Climbed
from tests.quantize.made import write_imatrix
from tests.support.browser import browser
from tests.support.quality_models import broken
from tests.support.tiny_models import tiny_bert, tiny_llama

Cli = Callable[..., Done]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The file name of the model behind every llama_decode in this process."""
    names: list[str] = []
    decode = Context.decode

    def spy(self: Context, batch: object) -> None:
        names.append(self.model.path.name)
        decode(self, batch)

    monkeypatch.setattr(Context, "decode", spy)
    return names


def rungs(data: Any) -> dict[str, Any]:
    return {rung["type"]: rung for rung in data["rungs"]}


def again(cli: Cli, climbed: Climbed, *more: object) -> Done:
    return cli(*climbed.args, *more, "--json")


def test_every_rung_has_what_quality_and_bench_measure(climbed: Climbed, cli: Cli) -> None:
    found = rungs(climbed.data)
    assert [found[t]["state"] for t in ("Q8_0", "Q4_0", "IQ2_XXS")] == ["made", "made", "failed"]
    assert "needs an importance matrix" in found["IQ2_XXS"]["failure"]
    judged = cli("quality", "tiny:Q8_0", "tiny:Q4_0", "--base", climbed.source, "--text",
                 climbed.text, "--again", "--json").data["rows"]  # fmt: skip
    for row in judged:
        measured = found[row["model"].split(":")[1]]["measured"]
        assert measured["perplexity"]["value"] == pytest.approx(row["perplexity"], rel=1e-6)
        assert measured["mean_kld"]["value"] == pytest.approx(row["mean_kld"], rel=1e-4)
        assert measured["size_bytes"] == row["size_bytes"]
        assert (measured["pp"]["test"], measured["tg"]["test"]) == ("pp512", "tg128")
        assert measured["pp"]["n"] == 5
        assert measured["tg"]["low_tps"] < measured["tg"]["mean_tps"] < measured["tg"]["high_tps"]
    base = judged[0]["figures"]["divergence"]["perplexity"]["base_perplexity"]["value"]
    source = climbed.data["source"]
    assert source["perplexity"]["value"] == pytest.approx(base, rel=1e-6)
    assert source["mean_kld"] is None and source["pp"]["mean_tps"] > 0
    assert climbed.data["conditions"]["text"]["name"] == "text.txt"


def test_sizes_are_those_of_the_files(climbed: Climbed, registry: Registry) -> None:
    for name, rung in rungs(climbed.data).items():
        if name != "IQ2_XXS":
            path = registry.resolve(f"tiny:{name}").path
            assert rung["file_bytes"] == path.stat().st_size


def test_the_figures_are_in_the_registry_and_its_histories(
    climbed: Climbed, cli: Cli, registry: Registry
) -> None:
    for name in ("tiny:Q8_0", "tiny:Q4_0"):
        kinds = {m.kind for m in registry.measurements(registry.resolve(name))}
        assert kinds == {"quality", "bench"}
    history = cli("bench", "history", "tiny:Q4_0", "--json").data
    assert set(history["runs"][0]["rates_ts"]) == {"pp512", "tg128"}
    assert "mean_kld" in cli("show", "tiny:Q4_0").out
    plain = cli("quality", "tiny:Q4_0", "--base", climbed.source, "--text", climbed.text, "--json")
    assert plain.data["rows"][0]["reused"]


def test_the_front_and_the_choice(climbed: Climbed) -> None:
    rows = [r for r in climbed.data["rungs"] if r["measured"]]
    points = [(r["file_bytes"], r["measured"]["mean_kld"]["value"], r) for r in rows]
    for size, kld, rung in points:
        beaten = any(s <= size and k <= kld and (s, k) != (size, kld) for s, k, _ in points)
        assert rung["on_front"] is not beaten
    assert climbed.data["basis"] == "mean_kld"
    best = min(rows, key=lambda r: r["measured"]["mean_kld"]["value"])
    chosen = climbed.data["recommended"]
    assert chosen["model"] == best["model"] == "tiny:Q8_0"
    assert "the least damage (KLD" in chosen["why"] and "Q4_0 is" in chosen["smaller"]
    assert chosen["fit"]["need_bytes"] > best["file_bytes"]


def test_again_everything_is_reused_and_nothing_computed(
    climbed: Climbed, cli: Cli, decoded: list[str]
) -> None:
    done = again(cli, climbed)
    assert done.exit_code == 0, done
    assert decoded == []
    for name, rung in rungs(done.data).items():
        if name != "IQ2_XXS":
            assert rung["state"] == "reused"
            assert rung["measured"]["quality_reused"] and rung["measured"]["speed_reused"]
            assert rung["measured"]["mean_kld"] == rungs(climbed.data)[name]["measured"]["mean_kld"]


def test_one_more_type_measures_that_alone(
    climbed: Climbed, cli: Cli, decoded: list[str], home: Path
) -> None:
    done = cli(*climbed.args[:2], "Q5_0", *climbed.args[2:], "--json")
    assert [r["state"] for r in done.data["rungs"]] == ["made", "reused", "reused", "failed"]
    assert set(decoded) == {"tiny.gguf", "tiny-Q5_0.gguf"}
    assert not list((home / "partial").iterdir())
    fewer = cli("quantize", "org/tiny", "Q5_0", "--ladder", "--imatrix", "none",
                "--measure-text", climbed.text, "--json")  # fmt: skip
    beside = {row["model"]: row for row in fewer.data["siblings"]}
    assert set(beside) == {"tiny:Q8_0", "tiny:Q4_0"}
    assert beside["tiny:Q4_0"]["mean_kld"] and not beside["tiny:Q4_0"]["elsewhere"]


def test_ctrl_c_keeps_what_is_finished(
    climbed: Climbed, cli: Cli, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    measure = Measurer.measure

    def stop_at_second(self: Measurer, model: Any, *args: Any) -> Any:
        if model.name == "tiny:Q5_1":
            raise KeyboardInterrupt
        return measure(self, model, *args)

    monkeypatch.setattr(Measurer, "measure", stop_at_second)
    command = ("quantize", "org/tiny", "Q8_0", "Q5_1", "Q4_0", "--ladder", "--imatrix", "none",
               "--measure-text", climbed.text)  # fmt: skip
    done = cli(*command, "--json")
    assert done.exit_code == 130
    assert done.json["error"]["kind"] == "interrupted"
    assert "1 of 3 rungs are finished" in done.json["error"]["message"]
    assert [r["type"] for r in done.data["rungs"]] == ["Q8_0"]
    assert not done.data["complete"]
    assert registry.resolve("tiny:Q5_1")  # it was made; only its figures are missing
    monkeypatch.undo()
    monkeypatch.setenv("LOCALLLM_HOME", str(registry.home))
    whole = cli(*command, "--json")
    assert [r["state"] for r in whole.data["rungs"]] == ["reused"] * 3
    assert [r["measured"]["quality_reused"] for r in whole.data["rungs"]] == [True, False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_it_goes_on_after_the_last_whole_rung(
    tmp_path: Path, registry: Registry, climbed_once: Climbed, cli: Cli
) -> None:
    source = shutil.copy(climbed_once.source, tmp_path / "s.gguf")
    command = ["quantize", str(source), "Q8_0", "Q4_0", "--ladder", "--imatrix", "none",
               "--measure-text", str(climbed_once.text)]  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "localllm", *command], env=os.environ.copy(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        if registry.measurements_of_kind("ladder"):
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    done = cli(*command, "--json")
    assert done.exit_code == 0, done
    assert rungs(done.data)["Q8_0"]["state"] == "reused"
    assert rungs(done.data)["Q8_0"]["measured"]["quality_reused"]
    assert not [p for p in (registry.home / "partial").iterdir() if "quality-base" in p.name]


def test_too_small_a_disk_is_said_before_anything_is_written(
    cli: Cli, climbed_once: Climbed, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("quantize", climbed_once.source, *climbed_once.args[2:])
    plan = cli(*args, "--dry-run", "--json").data
    sizes = sorted(r["file_bytes"] for r in plan["rungs"] if r["file_bytes"])
    assert plan["needed_bytes"] == sum(sizes)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, sum(sizes) - 1))
    done = cli(*args, "--json")
    assert done.exit_code == 1
    assert done.json["error"]["kind"] == "disk_full"
    assert registry.models() == () and not list(registry.home.rglob("*.gguf"))
    kept = cli(*args, "--keep", "none", "--dry-run", "--json").data
    assert kept["needed_bytes"] == sizes[-1]


def test_a_dry_run_is_exact_and_writes_nothing(climbed: Climbed, cli: Cli, home: Path) -> None:
    before = sorted(home.rglob("*.*"))
    done = cli(*climbed.args, "--dry-run", "--json")
    assert done.exit_code == 0
    assert sorted(home.rglob("*.*")) == before
    assert done.data["needed_bytes"] == 0  # all of it is made
    for name, rung in rungs(done.data).items():
        made = rungs(climbed.data)[name]
        assert rung["file_bytes"] == made["file_bytes"]
        assert rung["state"] in ("planned", "failed") and rung["measured"] is None
    shown = cli(*climbed.args, "--dry-run").out
    assert str(rungs(climbed.data)["Q4_0"]["file_bytes"]) in shown


def test_what_does_not_stay_is_removed_and_not_made_again(
    cli: Cli, climbed_once: Climbed, registry: Registry, decoded: list[str], home: Path
) -> None:
    shutil.copytree(climbed_once.home, home)
    for name in ("tiny:Q8_0", "tiny:Q4_0"):  # with their figures kept
        registry.remove(registry.resolve(name))
    command = ("quantize", "org/tiny", "Q8_0", "Q4_0", "--ladder", "--imatrix", "none",
               "--measure-text", climbed_once.text, "--json")  # fmt: skip
    best = cli(*command, "--keep", "best")
    assert [r["state"] for r in best.data["rungs"]] == ["made", "removed"]
    assert best.data["recommended"]["model"] == "tiny:Q8_0"
    assert [m.name for m in registry.models()] == ["org/tiny", "tiny:Q8_0"]
    assert decoded == []
    none = cli(*command, "--keep", "none")
    assert [r["state"] for r in none.data["rungs"]] == ["reused", "removed"]
    assert registry.resolve("tiny:Q8_0").path.exists()  # it was there before
    assert not [name for name in decoded if name != "tiny.gguf"]
    assert (
        none.data["rungs"][1]["measured"]["mean_kld"]
        == best.data["rungs"][1]["measured"]["mean_kld"]
    )
    every = cli(*command)
    assert [r["state"] for r in every.data["rungs"]] == ["reused", "made"]


def test_nothing_fits(climbed: Climbed, cli: Cli) -> None:
    plain = again(cli, climbed, "--ctx", "400000000")
    assert plain.exit_code == 0
    assert plain.data["recommended"] is None
    assert plain.data["nothing_fits"].startswith("nothing fits: Q4_0, the smallest, needs")
    asked = again(cli, climbed, "--ctx", "400000000", "--require-fit")
    assert asked.exit_code == 4
    assert asked.json["error"]["kind"] == "does_not_fit"
    assert [r["type"] for r in asked.data["rungs"]] == ["Q8_0", "Q4_0", "IQ2_XXS"]


def test_the_default_set_leaves_out_what_means_nothing_here(cli: Cli, tmp_path: Path) -> None:
    """Rows of 288 divide into blocks of 32 alone: most K and IQ types become one of those."""
    narrow = tiny_llama(tmp_path / "n.gguf", n_embd=288, n_head=9, n_head_kv=3, n_ff=544)
    done = cli("quantize", narrow, "--ladder", "--dry-run", "--json")
    assert done.exit_code == 0, done
    sizes = [r["file_bytes"] for r in done.data["rungs"]]
    assert len(sizes) > 1
    assert all(small <= 0.97 * large for large, small in pairwise(sizes))
    out = {one["type"]: one["why"] for one in done.data["left_out"]}
    assert out and all("no smaller than" in why for why in out.values())
    assert len(out) + len(sizes) == 8
    wide = cli("quantize", tiny_llama(tmp_path / "w.gguf"), "--ladder", "--dry-run", "--json")
    assert len(wide.data["rungs"]) + len(wide.data["left_out"]) == 8


def test_a_quantized_source(cli: Cli, climbed: Climbed) -> None:
    done = cli("quantize", "tiny:Q8_0", "--ladder", "--dry-run")
    assert done.exit_code == 2
    assert "--allow-requantize" in done.err
    plan = cli("quantize", "tiny:Q8_0", "--ladder", "--allow-requantize", "--dry-run", "--json")
    assert {one["type"] for one in plan.data["left_out"]} >= {"Q8_0"}


def test_where_no_rung_has_figures_the_first_problem_is_the_error(cli: Cli, tmp_path: Path) -> None:
    """llama.cpp refuses weights that are no numbers when it quantizes."""
    path = broken(tmp_path / "nan.gguf")
    done = cli("quantize", path, "Q8_0", "Q4_0", "--ladder", "--imatrix", "none", "--json")
    assert done.exit_code == 7
    assert done.json["error"]["kind"] == "damaged_file"
    assert [r["state"] for r in done.data["rungs"]] == ["failed"] * 2
    assert done.data["recommended"] is None


def test_a_model_that_generates_no_text(cli: Cli, tmp_path: Path, registry: Registry) -> None:
    """It has no perplexity, and its speed is measured all the same."""
    path = tiny_bert(tmp_path / "bert.gguf")
    done = cli("quantize", path, "Q8_0", "--ladder", "--imatrix", "none", "--json")
    (rung,) = done.data["rungs"]
    assert rung["measured"]["perplexity"] is None
    assert rung["measured"]["failures"][0].startswith("quality: ")
    assert registry.resolve("bert:Q8_0").path.exists()


@pytest.mark.parametrize(
    "args",
    [("--ladder", "--name", "x"), ("--ladder", "--plan", "p.json"), ("--report", "r.html"),
     ("--keep", "best"), ("--require-fit",), ("--ctx", "512"), ("--chart",),
     ("--measure-chunks", "3"), ("--measure", "--dry-run"), ("--ladder", "--keep", "some"),
     ("--ladder", "--save-plan", "p.json"), ("--ladder", "--dry-run", "--report", "r.html"),
     ("--ladder", "Q9_9")],
)  # fmt: skip
def test_words_that_make_no_sense_together(
    cli: Cli, climbed_once: Climbed, args: tuple[str, ...], home: Path
) -> None:
    done = cli("quantize", climbed_once.source, "Q8_0", *args)
    assert done.exit_code == 2, done
    assert len(done.err.strip().splitlines()) <= 2
    assert not home.exists()


def test_a_model_that_is_not_there_or_is_damaged(
    cli: Cli, climbed_once: Climbed, tmp_path: Path
) -> None:
    assert cli("quantize", "nothing", "--ladder").exit_code == 3
    assert cli("quantize", "nothing", "Q4_0", "--measure").exit_code == 3
    path = tmp_path / "cut.gguf"
    path.write_bytes(climbed_once.source.read_bytes()[:100_000])
    for how in ("--ladder", "--measure"):
        done = cli("quantize", path, "Q8_0", how)
        assert done.exit_code == 7, done
        assert done.err.startswith("error: ")


def test_an_importance_matrix_of_another_model(
    cli: Cli, climbed_once: Climbed, tmp_path: Path
) -> None:
    other = tiny_llama(tmp_path / "other.gguf", n_layer=3)
    write_imatrix(tmp_path / "i.gguf", other)
    done = cli("quantize", climbed_once.source, "Q8_0", "Q4_0", "--ladder", "--imatrix",
               tmp_path / "i.gguf")  # fmt: skip
    assert done.exit_code == 2
    assert "is of another model" in done.err


def test_without_room_for_the_sources_figures_it_is_computed_each_time(
    cli: Cli, climbed_once: Climbed, home: Path, monkeypatch: pytest.MonkeyPatch,
    decoded: list[str],
) -> None:  # fmt: skip
    """A disk that has room for the models and not for that file: the figures are the same."""
    from localllm.engine.quality.file import ReferenceWriter

    def full(self: ReferenceWriter, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ReferenceWriter, "_write", full)
    source = shutil.copy(climbed_once.source, home.parent / "s.gguf")
    done = cli("quantize", source, "Q8_0", "Q4_0", "--ladder", "--imatrix", "none",
               "--measure-text", climbed_once.text, "--json")  # fmt: skip
    assert done.exit_code == 0, done
    assert "the source's figures cannot be kept" in done.json["warnings"][0]
    for name, rung in rungs(done.data).items():
        before = rungs(climbed_once.data)[name]["measured"]
        assert rung["measured"]["mean_kld"]["value"] == pytest.approx(
            before["mean_kld"]["value"], rel=1e-3
        )
    assert decoded.count("s.gguf") > 1


def test_a_loose_source_is_hashed_once(
    cli: Cli, climbed_once: Climbed, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lineage, reuse and measurements all name it by its digest."""
    from localllm.library import derive

    source = shutil.copy(climbed_once.source, home.parent / "s.gguf")
    read, digest_of = [], derive.digest_of

    def counted(path: Path, advance: Any) -> str:
        read.append(path.name)
        return digest_of(path, advance)

    monkeypatch.setattr(derive, "digest_of", counted)
    for how in ("--ladder", "--measure"):
        read.clear()
        done = cli("quantize", source, "Q8_0", "Q4_0", how, "--imatrix", "none",
                   "--measure-text", climbed_once.text, "--measure-chunks", "2")  # fmt: skip
        assert done.exit_code == 0, done
        assert read.count("s.gguf") == 1


def test_safetensors_are_converted_first(cli: Cli, tmp_path: Path) -> None:
    from tests.support.tiny_hf import tiny_hf

    done = cli("quantize", tiny_hf(tmp_path / "hf"), "--ladder")
    assert done.exit_code == 2
    assert "localllm convert" in done.err


def test_the_chart_and_the_page(climbed: Climbed, cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "my ladder.html"
    done = cli(*climbed.args, "--chart", "--report", page)
    assert done.exit_code == 0, done
    assert "Quality and size" in done.out and "on the front" in done.out
    assert "recommended  tiny:Q8_0" in done.out
    assert "Not made" in done.out
    assert "Quality and size" not in cli(*climbed.args).out  # no terminal, no chart
    with browser(tmp_path / "browser") as tab:
        tab.open(page)
        assert tab.evaluate("document.querySelectorAll('canvas').length") >= 4
        assert "tiny:Q8_0" in tab.evaluate("document.body.innerText")
        assert not tab.problems and not tab.requests
    assert cli(*climbed.args, "--report", tmp_path / "no" / "r.html").exit_code == 3


def test_the_data_of_the_page_is_the_json(climbed: Climbed, cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "l.html"
    done = again(cli, climbed, "--report", page)
    text = page.read_text(encoding="utf-8")
    embedded = text.split('id="data">', 1)[1].split("</script>", 1)[0]
    data = json.loads(embedded)["ladder"]
    assert [r["file_bytes"] for r in data["rungs"]] == [r["file_bytes"] for r in done.data["rungs"]]
