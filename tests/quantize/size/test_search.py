"""`quantize --size`, `--bpw` and `--fit` from the command line to the file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.quantize.made import write_imatrix
from tests.support.tiny_models import (
    llama_model,
    split,
    tiny_bert,
    tiny_gemma3,
    tiny_llama,
    tiny_qwen3moe,
)

Cli = Callable[..., Done]
SHORT = ("--budget", "0.02")  # minutes


def types_in(path: Path) -> dict[str, str]:
    """Tensor types by gguf's own reader."""
    import gguf

    return {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(path).tensors}


def data_of(path: Path) -> dict[str, str]:
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return {t.name: hashlib.sha256(t.data.tobytes()).hexdigest() for t in tensors}


def made_file(done: Done) -> Path:
    assert done.exit_code == 0, done
    return Path(done.data["result"]["model"]["files"][0]["path"])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tiny_llama(tmp_path / "m.gguf")
    write_imatrix(tmp_path / "m.imatrix.gguf", path)
    return path


@pytest.fixture
def searched(cli: Cli, model: Path) -> Callable[..., Done]:
    """Without importance there are no tiny types to look at, which is what takes time."""

    def run(*args: object) -> Done:
        given = () if "--imatrix" in args else ("--imatrix", "none")
        return cli("quantize", model, *given, *args)

    return run


def nothing_unfinished(registry: Registry) -> bool:
    return not list(registry.home.glob("partial/*"))


def test_a_size_is_kept_to_the_byte_and_used(cli: Cli, tmp_path: Path, registry: Registry) -> None:
    """Of six layers: a step of one of their tensors is less than 0.5 % of the file."""
    model, wanted = tiny_llama(tmp_path / "deep.gguf", n_layer=6), 3_000_000
    done = cli("quantize", model, "--imatrix", "none", "--size", wanted, *SHORT, "--json")
    path = made_file(done)
    size = path.stat().st_size
    assert done.data["result"]["file_bytes"] == size
    assert 0.995 * wanted <= size <= wanted
    assert done.data["limit"] == {"of": "files", "n_bytes": wanted, "fit": None}
    assert done.data["used"] == pytest.approx(size / wanted)
    assert nothing_unfinished(registry)


def test_bits_per_weight_are_kept_and_the_file_is_judged(
    searched: Callable[..., Done], model: Path, registry: Registry
) -> None:
    import gguf

    matrix = model.with_name("m.imatrix.gguf")
    done = searched("--bpw", "5.5", "--budget", "0.5", "--imatrix", matrix, "--json")
    path = made_file(done)
    tensors = gguf.GGUFReader(path).tensors
    bpw = sum(int(t.n_bytes) for t in tensors) * 8 / sum(int(t.n_elements) for t in tensors)
    data = done.data
    assert 0.98 * 5.5 <= bpw <= 5.5  # the steps of so few tensors are coarse
    assert data["used"] == pytest.approx(bpw / 5.5, rel=1e-5)
    assert data["result"]["bits_per_weight"] == pytest.approx(bpw)
    assert data["result"]["name"] == f"m:{bpw:.2f}bpw"
    verdict = data["verdict"]
    assert verdict["preset"]["file_bytes"] <= path.stat().st_size + 5000
    assert verdict["ours"]["mean_kld"]["value"] > 0
    ratio = verdict["ours"]["mean_kld"]["value"] / verdict["preset"]["mean_kld"]["value"]
    assert verdict["change"]["relative"] == pytest.approx(ratio - 1)
    assert len(verdict["ours"]["of_contexts"]) == verdict["n_contexts"] == 32
    groups = data["search"]["groups"]
    assert sum(g["n_tensors"] for g in groups) == len(data["search"]["types"])
    assert sum(g["size_bytes"] for g in groups) == data["search"]["size_bytes"]
    assert all(g["kld"] is not None for g in groups)
    if data["taken"] == "search":
        planned = data["search"]["types"]
        assert {n: t for n, t in types_in(path).items() if n in planned} == planned
    lineage = registry.resolve(data["result"]["name"]).lineage
    assert lineage is not None
    if data["taken"] == "search":
        assert lineage.parameters["search"]["bpw"] == 5.5
    assert "imatrix" in lineage.inputs
    assert nothing_unfinished(registry)


def test_the_same_search_is_made_once(
    searched: Callable[..., Done], registry: Registry, tmp_path: Path
) -> None:
    """Whatever else was asked for meanwhile, and never for another size, text or pin."""
    size = ("--size", "1100000", *SHORT)
    first = searched(*size, "--save-plan", tmp_path / "first.toml", "--json")
    path, taken = made_file(first), first.data["taken"]
    other = searched("--size", "1200000", *SHORT, "--json")
    pinned = searched(*size, "--tensor-type", "attn_v=q8_0", "--json")
    (tmp_path / "t.txt").write_text("Another text, to search with, of some length. " * 60)
    by_text = searched(*size, "--text", tmp_path / "t.txt", "--json")
    assert len({made_file(one) for one in (first, other)}) == 2
    for one in (other, pinned, by_text):
        assert one.data["search"] is not None
    if taken == "search":
        again = searched(*size, "--json")
        assert again.data["search"] is None and again.data["result"]["reused"]
        assert made_file(again) == path
        assert again.data["result"]["file_bytes"] == path.stat().st_size
        # the plan of it too, without another search
        more = searched(*size, "--save-plan", tmp_path / "again.toml", "--json")
        assert more.data["search"] is None, more
        saved = [tomllib.loads((tmp_path / f"{n}.toml").read_text()) for n in ("first", "again")]
        assert saved[0] == saved[1]
        assert saved[0]["tensors"].items() <= types_in(path).items()
    anew = searched(*size, "--again", "--json")  # may well choose others, in another time
    assert anew.data["search"] is not None


def test_measured_beside_its_source_and_siblings(
    searched: Callable[..., Done], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("A text to measure with, of some length. " * 60)
    with_text = ("--measure-text", tmp_path / "t.txt", "--measure-chunks", "2")
    assert searched("Q4_0", "--measure", *with_text, "--json").exit_code == 0
    done = searched("--size", "1100000", "--measure", *with_text, *SHORT, "--json")
    path = made_file(done)
    rows = {row["model"]: row for row in done.data["measured"]["rows"]}
    assert len(rows) == 3  # the source, what was made, its sibling
    mine = rows[done.data["result"]["name"]]
    assert mine["size_bytes"] == path.stat().st_size
    assert mine["mean_kld"]["value"] > 0 and mine["perplexity"]["value"] > 1


def test_the_judgment_is_what_quality_says_of_the_two_files(
    searched: Callable[..., Done], cli: Cli, model: Path, registry: Registry
) -> None:
    """The preset of the judgment and the result, each again as `quantize` and `quality` have
    them: other contexts of the same text, so only the order and the size can be compared."""
    done = searched("--bpw", "5.5", *SHORT, "--json")
    verdict, name = done.data["verdict"], done.data["result"]["name"]
    preset = cli("quantize", model, verdict["preset"]["name"], "--json")
    assert preset.data["file_bytes"] == verdict["preset"]["file_bytes"]
    report = cli("quality", name, preset.data["name"], "--base", model, "--chunks", "40",
                 "--ctx", "192", "--json")  # fmt: skip
    assert report.exit_code == 0, report
    rows = report.data["models"] if "models" in report.data else report.data["rows"]
    ours, theirs = (row["mean_kld"] for row in rows)
    assert verdict["ours"]["mean_kld"]["value"] == pytest.approx(ours, rel=0.15)
    assert verdict["preset"]["mean_kld"]["value"] == pytest.approx(theirs, rel=0.15)


def test_the_plan_can_be_saved_edited_and_replayed(
    searched: Callable[..., Done], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    first = searched("--bpw", "6", "--quick", "--save-plan", plan, "--json")
    again = searched("--plan", plan, "--name", "again:1", "--json")
    assert again.exit_code == 0, again
    replayed = Path(again.data["model"]["files"][0]["path"])
    assert data_of(made_file(first)) == data_of(replayed)
    document = json.loads(plan.read_text())
    document["tensors"]["blk.0.ffn_up.weight"] = "q8_0"
    plan.write_text(json.dumps(document))
    edited = searched("--plan", plan, "--name", "edited:1", "--json")
    path = Path(edited.data["model"]["files"][0]["path"])
    assert types_in(path)["blk.0.ffn_up.weight"] == "q8_0"


def test_pinned_tensors_stay_as_said(searched: Callable[..., Done]) -> None:
    done = searched(
        "--bpw", "6", "--quick", "--token-embedding-type", "q8_0", "--output-tensor-type", "q4_0",
        "--tensor-type", r"blk\.0\.=q5_k", "--json",
    )  # fmt: skip
    types = types_in(made_file(done))
    assert types["token_embd.weight"] == "q8_0"
    assert types["output.weight"] == "q4_0"
    assert {t for n, t in types.items() if n.startswith("blk.0.") and "norm" not in n} == {"q5_k"}
    free = done.data["search"]["types"]
    assert set(free) == {n for n in types if n.startswith("blk.1.") and "norm" not in n}
    assert done.data["result"]["bits_per_weight"] <= 6


@pytest.mark.parametrize("shape", ["experts", "tied", "odd rows", "bf16", "f32", "split"])
def test_models_of_all_shapes(cli: Cli, tmp_path: Path, shape: str, registry: Registry) -> None:
    path = tmp_path / "m.gguf"
    if shape == "experts":
        tiny_qwen3moe(path)
    elif shape == "tied":
        tiny_gemma3(path, n_layer=2)
    elif shape == "odd rows":
        tiny_llama(path, n_embd=192, n_ff=352)
    elif shape == "split":
        path = split(llama_model, tmp_path, "big", n_shards=2)[0]
    else:
        tiny_llama(path, dtype=shape.upper())
    done = cli("quantize", path, "--bpw", "7", "--imatrix", "none", *SHORT, "--json")
    types = types_in(made_file(done))
    if done.data["taken"] == "search":
        planned = done.data["search"]["types"]
        assert {n: t for n, t in types.items() if n in planned} == planned
    if shape == "odd rows":
        assert {t for n, t in types.items() if n.endswith("attn_q.weight")} <= {
            "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q8_0", "f16"
        }  # fmt: skip
    assert done.data["result"]["bits_per_weight"] <= 7
    assert nothing_unfinished(registry)


def test_a_quantized_source_only_when_allowed_and_its_copy_is_gone(
    cli: Cli, tmp_path: Path, registry: Registry
) -> None:
    path = tiny_llama(tmp_path / "q8.gguf", dtype="Q8_0")
    args = ("quantize", path, "--bpw", "5.5", "--imatrix", "none", *SHORT)
    refused = cli(*args)
    assert refused.exit_code == 2
    assert "--allow-requantize" in refused.err
    done = cli(*args, "--allow-requantize", "--json")
    assert done.exit_code == 0, done
    assert done.data["search"]["runs"] > 0 or not done.data["search"]["complete"]
    assert "quantized already" in " ".join(done.json["warnings"])
    assert nothing_unfinished(registry)


def test_errors_alone_are_said_to_lose_where_bits_are_few(cli: Cli, model: Path) -> None:
    matrix = model.with_name("m.imatrix.gguf")
    for bpw, said in (("2.9", "choose worse than"), ("5.0", "nothing judged it")):
        done = cli("quantize", model, "--bpw", bpw, "--quick", "--imatrix", matrix)
        assert done.exit_code == 0, done
        assert [said in line for line in done.err.splitlines() if "errors alone" in line] == [True]


def test_too_small_a_size_names_the_least(searched: Callable[..., Done]) -> None:
    done = searched("--size", "100KiB", "--quick")
    assert done.exit_code == 4
    hint = re.search(r"--size ([\d.]+MiB)", done.err)
    assert hint is not None, done.err
    assert searched("--size", hint[1], "--quick", "--dry-run").exit_code == 0
    done = searched("--bpw", "0.5", "--quick")
    assert done.exit_code == 4
    assert re.search(r"--bpw ([\d.]+)", done.err), done.err


@pytest.mark.parametrize(
    ("limit", "code", "says"),
    [(("--size", "100KiB"), 4, "at least"), (("--bpw", "0.5"), 4, "at least"),
     (("--size", "1GiB"), 2, "as it is"), (("--bpw", "32"), 2, "as it is")],
)  # fmt: skip
def test_a_limit_of_no_use_is_refused_before_a_matrix_is_made(
    cli: Cli, model: Path, registry: Registry, limit: tuple[str, ...], code: int, says: str
) -> None:
    done = cli("quantize", model, *limit)
    assert done.exit_code == code, done
    assert says in done.err
    assert "making one" not in done.err
    assert not list(registry.home.rglob("*.imatrix.gguf"))


def test_a_size_that_the_model_has_already(searched: Callable[..., Done]) -> None:
    done = searched("--size", "1GiB", "--quick")
    assert done.exit_code == 2
    assert "as it is" in done.err
    assert searched("--fit", "--quick").exit_code == 2


def test_a_limit_that_coarse_tensors_cannot_use_is_said(searched: Callable[..., Done]) -> None:
    """One tensor is free, and between two of its types there is nothing."""
    pins = ("--quick", "--tensor-type", "blk=q4_0", "--token-embedding-type", "q4_0", "--json")
    done = searched("--bpw", "15", *pins)
    assert done.data["search"]["types"] == {"output.weight": "f16"}
    assert "the best types take no more" in " ".join(done.json["warnings"])
    most = done.data["result"]["bits_per_weight"]
    done = searched("--bpw", most - 0.01, *pins)
    assert done.data["search"]["types"] == {"output.weight": "q8_0"}
    assert done.data["used"] < 0.995
    assert "no choice that takes more of it loses less" in " ".join(done.json["warnings"])


def test_dry_run_plans_to_the_byte_and_writes_nothing(
    searched: Callable[..., Done], registry: Registry
) -> None:
    planned = searched("--size", "1200KB", "--quick", "--dry-run", "--json")
    assert planned.exit_code == 0, planned
    assert planned.data["result"]["model"] is None
    assert registry.models() == ()
    made = searched("--size", "1200KB", "--quick", "--json")
    assert made_file(made).stat().st_size == planned.data["result"]["file_bytes"]
    assert made.data["verdict"] is None


def test_the_presets_map_is_taken_where_the_search_did_not_win(
    searched: Callable[..., Done], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.quantize.size import judge as size_judge

    real, calls = size_judge.answers, []

    def worse(*args: Any, **more: Any) -> Any:
        from dataclasses import replace

        found = real(*args, **more)
        calls.append(args[0])
        if len(calls) == 1:  # the searched file
            mean = replace(found.mean_kld, value=found.mean_kld.value + 1)
            return replace(found, mean_kld=mean)
        return found

    monkeypatch.setattr("localllm.quantize.size.make.answers", worse)
    done = searched("--bpw", "5.5", *SHORT, "--json")
    assert done.data["taken"] == "preset"
    assert "did not win" in " ".join(done.json["warnings"])
    assert [m.name for m in registry.models()] == [done.data["result"]["name"]]
    assert done.data["result"]["file_bytes"] == done.data["preset_bytes"]
    assert not calls[0].exists()
    assert nothing_unfinished(registry)


def test_an_imatrix_of_another_model(searched: Callable[..., Done], tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other.gguf", n_embd=512)
    write_imatrix(tmp_path / "other.imatrix.gguf", other)
    done = searched("--bpw", "5", "--imatrix", tmp_path / "other.imatrix.gguf")
    assert done.exit_code == 2
    assert "of another model" in done.err


def test_a_model_that_generates_nothing_is_searched_by_errors(cli: Cli, tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "b.gguf", n_embd=256)
    done = cli("quantize", path, "--bpw", "7", "--imatrix", "none", *SHORT)
    assert done.exit_code == 1
    assert "--quick" in done.err
    assert cli("quantize", path, "--bpw", "7", "--imatrix", "none", "--quick").exit_code == 0


def test_without_room_for_the_copy_nothing_is_written(
    cli: Cli, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama(tmp_path / "q8.gguf", dtype="Q8_0")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda where: usage(10**9, 0, 1000))
    done = cli("quantize", path, "--bpw", "5.5", "--imatrix", "none", "--allow-requantize")
    assert done.exit_code == 1
    assert "half-precision copy" in done.err
    assert nothing_unfinished(registry)
    assert registry.models() == ()


def test_a_source_that_changes_while_it_is_searched(
    searched: Callable[..., Done], model: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.quantize.search.search import Search

    find = Search.find

    def and_touch(self: Search, *args: Any) -> Any:
        found = find(self, *args)
        with model.open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\1\2\3\4")
        return found

    monkeypatch.setattr(Search, "find", and_touch)
    done = searched("--bpw", "5.5", *SHORT)
    assert done.exit_code == 7
    assert "changed while it was being read" in done.err
    assert registry.models() == ()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_during_the_search_no_copy_stays(
    cli: Cli, tmp_path: Path, registry: Registry, sent: signal.Signals
) -> None:
    """Of a quantized source, whose half-precision copy lies in the home."""
    path = tiny_llama(tmp_path / "q8.gguf", dtype="Q8_0", n_layer=6)
    child = subprocess.Popen(
        [sys.executable, "-m", "localllm", "quantize", str(path), "--bpw", "5.5", "--imatrix",
         "none", "--allow-requantize", "--progress", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if "runs of the model" in line and '"done": 2' in line:
            break
    assert list(registry.home.glob("partial/*.part"))
    child.send_signal(sent)
    child.communicate(timeout=60)
    assert registry.models() == ()
    if sent is signal.SIGINT:
        assert child.returncode == 130
    else:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and cli("prune", "--yes").exit_code != 0:
            time.sleep(0.1)
    assert nothing_unfinished(registry)


def test_fit_makes_what_the_plan_says_that_a_machine_holds(
    searched: Callable[..., Done], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.formats.gguf import read_model
    from localllm.placement import PlanOptions, Target, plan_for

    options = PlanOptions(n_ctx=512)
    large = plan_for(read_model(model), Target((), 1 << 40, 1 << 40, None, 2, here=False), options)
    margin = int(large.compute_error * large.compute_bytes)
    n_bytes = large.total_bytes + margin - model.stat().st_size // 2
    machine = Target((), n_bytes, n_bytes, None, 2, here=False)
    monkeypatch.setattr("localllm.quantize.size.fit.this_machine", lambda: machine)
    done = searched("--fit", "--ctx", "512", "--quick", "--json")
    plan = plan_for(read_model(made_file(done)), machine, options)
    assert plan.runs
    fit = done.data["limit"]["fit"]
    assert (fit["where"], fit["n_ctx"], fit["available_bytes"]) == ("memory", 512, n_bytes)
    assert fit["kv_bytes"] == plan.kv_bytes
    # nothing of note is left: what remains is the margin for estimated buffers
    left = n_bytes - plan.total_bytes
    assert left <= margin + 0.02 * plan.weights_bytes
    assert made_file(done).stat().st_size < 0.6 * model.stat().st_size
    refused = searched("--fit", "--ctx", "2000000", "--quick")
    assert refused.exit_code == 4, refused
