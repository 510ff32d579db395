"""Which variant is taken, on machines with more and less memory than this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import config
from localllm.errors import AmbiguousModel, DoesNotFit
from localllm.formats.gguf import read_model
from localllm.library.candidates import Memory, candidates
from localllm.library.choose import Candidate, choose
from localllm.placement import Plan, PlanOptions, Target, TargetGpu, plan_for, this_machine
from localllm.pull.naming import name_of, plain_name
from localllm.pull.pull import Pulled, PullOptions, pull
from localllm.refs import ModelRef
from localllm.registry import Registry
from localllm.sources import open_source
from localllm.sources.base import Listing, RemoteFile, Variant
from tests.conftest import Done
from tests.pull.test_hub import REPO, publish
from tests.support.hub_server import HubServer
from tests.support.tiny_models import llama_model

Cli = Callable[..., Done]
LABELS = ("Q4_K_M", "Q5_K_M", "Q8_0", "F16")
GIB = 1 << 30


def machine(host_bytes: int, *gpu_bytes: int) -> Target:
    """A machine with so much free memory."""
    gpus = tuple(
        TargetGpu(f"GPU{i}", "GPU", size, size, 0, None, "gpu", False)
        for i, size in enumerate(gpu_bytes)
    )
    return Target(gpus, host_bytes, host_bytes, None, 4, here=False)


@pytest.fixture
def on(hub: HubServer, models: dict[str, bytes], registry: Registry) -> Callable[..., Pulled]:
    """`on(machine, text)`: what pulling `text` comes to there, without the download."""
    publish(hub, models, *LABELS)

    def run(target: Target, text: str = REPO, *, dry_run: bool = True) -> Pulled:
        memory = Memory(target=target)
        options = PullOptions(dry_run=dry_run)
        return pull(text, registry, config.load(), options, memory=memory)

    return run


def plans(models: Mapping[str, bytes], tmp_path: Path, target: Target) -> dict[str, Plan]:
    """Each variant's plan from its own, whole header."""
    found = {}
    for label in LABELS:
        path = tmp_path / f"{label}.gguf"
        path.write_bytes(models[label])
        found[label] = plan_for(read_model(path), target, PlanOptions())
    return found


def test_the_best_that_fits_the_memory(
    on: Callable[..., Pulled], models: dict[str, bytes], tmp_path: Path
) -> None:
    need = {k: p.total_bytes for k, p in plans(models, tmp_path, machine(GIB)).items()}
    assert sorted(need, key=need.__getitem__) == list(LABELS)
    room = 4096
    assert on(machine(GIB)).variant == "Q8_0"  # F16 has nothing more to give
    assert on(machine(need["F16"] - room)).variant == "Q8_0"
    assert on(machine(need["Q8_0"] + room)).variant == "Q8_0"
    assert on(machine(need["Q8_0"] - room)).variant == "Q5_K_M"
    assert on(machine(need["Q5_K_M"] - room)).variant == "Q4_K_M"
    with pytest.raises(DoesNotFit, match="Q4_K_M, the smallest, needs"):
        on(machine(need["Q4_K_M"] - room))


def test_the_reason_is_said(on: Callable[..., Pulled]) -> None:
    why = on(machine(GIB)).why
    assert why is not None
    assert "fits 1 GiB of memory" in why
    assert "F16 would fit too and gain nothing measurable" in why
    assert on(machine(GIB), f"{REPO}:F16").why is None


def test_what_would_fit_instead_does(
    on: Callable[..., Pulled], models: dict[str, bytes], tmp_path: Path
) -> None:
    need = plans(models, tmp_path, machine(GIB))["Q8_0"].total_bytes
    small = machine(need - 4096)
    with pytest.raises(DoesNotFit) as caught:
        on(small, f"{REPO}:F16")
    hint = caught.value.hint or ""
    assert f"localllm pull hf:{REPO}:Q5_K_M" in hint
    assert "--ctx " in hint
    assert on(small, f"hf:{REPO}:Q5_K_M", dry_run=False).model is not None
    shorter = int(hint.partition("--ctx ")[2].split(";")[0])
    memory = Memory(shorter, small)
    assert memory.plan(read_model(tmp_path / "F16.gguf")).runs
    assert not Memory(shorter + 256, small).plan(read_model(tmp_path / "F16.gguf")).runs


@pytest.mark.parametrize("gpus", [(), (GIB,), (9 << 20,), (9_700_000,), (10 << 20,), (4 << 20,)])
def test_estimates_and_verdicts_are_those_of_each_own_header(
    hub: HubServer, models: dict[str, bytes], tmp_path: Path, gpus: tuple[int, ...]
) -> None:
    publish(hub, models, *LABELS)
    target = machine(GIB, *gpus)
    ref = ModelRef.parse(REPO)
    source = open_source(ref, config.load())
    before = hub.served_bytes("/cdn/*")
    found = candidates(source.locate(ref), source, Memory(target=target))
    assert hub.served_bytes("/cdn/*") - before <= len(models["Q4_K_M"])  # one header
    own = plans(models, tmp_path, target)
    for c in found:
        plan = own[str(c.variant.name)]
        assert c.need_bytes == pytest.approx(plan.total_bytes, rel=0.01)
        assert (c.verdict, c.runs) == (plan.verdict, plan.runs), c.variant.name
        header = read_model(tmp_path / f"{c.variant.name}.gguf")
        assert c.bits_per_weight == pytest.approx(header.bits_per_weight, rel=0.01)


def tied(path: Path, dtype: str, embedding: str) -> bytes:
    """A model whose large embedding is its output matrix too, as quantizers leave it: in a
    better type than the rest."""
    model = llama_model(dtype=dtype, n_layer=6)
    model.tensors = [t for t in model.tensors if not t[0].name.startswith(("output.", "token_"))]
    model.matrix("token_embd.weight", (256, 8000), dtype=embedding)
    return model.write(path).read_bytes()


def test_a_tied_embedding_is_not_scaled_with_the_rest(hub: HubServer, tmp_path: Path) -> None:
    """A GPU holds it a second time."""
    types = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q6_K": ("Q6_K", "Q6_K"), "Q8_0": ("Q8_0", "Q8_0"),
             "F16": ("F16", "F16")}  # fmt: skip
    made = {k: tied(tmp_path / f"{k}.gguf", *v) for k, v in types.items()}
    hub.add_repo(REPO, {f"tiny-{k}.gguf": body for k, body in made.items()})
    ref = ModelRef.parse(REPO)
    source = open_source(ref, config.load())
    target = machine(GIB, GIB)
    for c in candidates(source.locate(ref), source, Memory(target=target)):
        header = read_model(tmp_path / f"{c.variant.name}.gguf")
        own = plan_for(header, target, PlanOptions())
        assert c.need_bytes == pytest.approx(own.total_bytes, rel=0.002)


def test_a_gpu_comes_first(on: Callable[..., Pulled], models: dict[str, bytes],
                           tmp_path: Path) -> None:  # fmt: skip
    """All of a smaller variant on the GPU rather than part of a larger one."""
    gpu = plans(models, tmp_path, machine(GIB, GIB))["Q5_K_M"].gpu_bytes + 4096
    pulled = on(machine(GIB, gpu))
    assert pulled.variant == "Q5_K_M"
    assert pulled.verdict == "all"
    assert "all on the GPU" in str(pulled.why)


def test_the_list_of_what_there_is(
    cli: Cli, hub: HubServer, models: dict[str, bytes], home: Path
) -> None:
    publish(hub, models, *LABELS)
    done = cli("pull", "--list", REPO, "--json")
    assert [row["variant"] for row in done.data] == list(LABELS)
    assert [row["size_bytes"] for row in done.data] == [len(models[k]) for k in LABELS]
    assert {(row["format"], row["files"], row["missing"][:1] == []) for row in done.data} == {
        ("gguf", 1, True)
    }
    assert all(row["runs"] and row["verdict"] in ("all", "partial", "cpu") for row in done.data)
    lines = cli("pull", "--list", REPO).out.splitlines()
    assert lines[0].split() == [
        "variant",
        "format",
        "files",
        "size",
        "bits/weight",
        "needs",
        "here",
    ]
    assert [line.split()[0] for line in lines[1:]] == list(LABELS)
    far = cli("pull", "--list", REPO, "--ctx", 2_000_000_000, "--json").data
    assert {(row["verdict"], row["runs"]) for row in far} == {("none", False)}
    assert not home.exists()


def test_a_repository_of_two_models(
    hub: HubServer, models: dict[str, bytes], tmp_path: Path
) -> None:
    """Each is measured by a header of its own."""
    files = {"small-Q4_K_M.gguf": models["Q4_K_M"], "small-F16.gguf": models["F16"],
             "large-Q8_0.gguf": models["other"]}  # fmt: skip
    hub.add_repo(REPO, files)
    ref = ModelRef.parse(REPO)
    source = open_source(ref, config.load())
    found = candidates(source.locate(ref), source, Memory(target=machine(GIB)))
    for c in found:
        path = tmp_path / c.variant.weights[0].name
        path.write_bytes(files[path.name])
        plan = plan_for(read_model(path), machine(GIB), PlanOptions())
        assert c.need_bytes == pytest.approx(plan.total_bytes, rel=0.01)


def test_near_a_limit_llama_cpp_is_asked(models: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(models["Q4_K_M"])
    header = read_model(path)
    here = replace(this_machine(), gpus=())
    far = Memory(target=here).settled_plan(header)
    near = replace(here, host_available_bytes=far.total_bytes - 1000)
    plan = Memory(target=near).settled_plan(header)
    assert (far.basis, plan.basis) == ("arithmetic", "llama.cpp")
    assert plan.weights_bytes == far.weights_bytes


# --- the rule alone ---------------------------------------------------------------------


def candidate(name: str, bits: float, verdict: str, runs: bool = True) -> Candidate:
    file = RemoteFile(f"{name}.gguf", int(bits * 1000), None, "weights")
    variant = Variant(name, "gguf", (file,))
    return Candidate(variant, int(bits * 1000), bits, int(bits * 1000), verdict, runs)


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ([("Q2", 2.6, "all"), ("Q4", 4.8, "partial"), ("Q8", 8.5, "none")], "Q4"),
        ([("IQ3", 3.1, "all"), ("Q4", 4.8, "partial")], "IQ3"),
        ([("Q2", 2.6, "all"), ("Q4", 4.8, "none")], "Q2"),
        ([("Q2", 2.6, "partial"), ("IQ1", 1.6, "all"), ("Q4", 4.8, "none")], "IQ1"),
        ([("Q4", 4.8, "none"), ("Q8", 8.5, "none")], "Q8"),
        ([("F16", 16.0, "all"), ("F32", 32.0, "all")], "F32"),
    ],
)
def test_few_bits_only_where_nothing_else_runs(
    offered: list[tuple[str, float, str]], taken: str
) -> None:
    listing = Listing(ModelRef.parse("org/m"), "org", "m", ())
    choice = choose(listing, [candidate(*one) for one in offered], "1 GiB of memory")
    assert choice.candidate.variant.name == taken


def test_without_gguf_the_model_is_taken_and_adapters_are_asked_for() -> None:
    listing = Listing(ModelRef.parse("org/m"), "org", "m", ())
    model = Candidate(Variant("safetensors", "safetensors", ()), 1, None, None, None)
    adapters = [Candidate(Variant(n, "adapter", ()), 1, None, None, None) for n in ("a", "b")]
    assert choose(listing, [*adapters, model], "").candidate is model
    with pytest.raises(AmbiguousModel) as caught:
        choose(listing, adapters, "")
    assert "hf:org/m:a" in str(caught.value.hint)


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "repo", "name"),
    [
        ("hf:org/repo:Q4_K_M", "repo", "org/repo:Q4_K_M"),
        ("hf:org/repo@v1:Q4_K_M", "repo", "org/repo@v1:Q4_K_M"),
        ("hf:gpt2", "gpt2", "gpt2"),
        ("ollama:llama3.2:1b", "llama3.2", "ollama:llama3.2:1b"),
        ("pypi:some-model", "some-model", "pypi:some-model"),
        ("https://host/a/download?id=7", "My Model-Q8_0", "My-Model-Q8_0"),
        ("file:/models/big-00001-of-00003.gguf", "x", "big"),
        (r"file:C:\models\tiny.GGUF", "x", "tiny"),
        ("file:/models/モデル.gguf", "x", "model"),
        ("file:/models/..gguf.gguf", "x", "model"),
    ],
)
def test_what_models_are_called(text: str, repo: str, name: str) -> None:
    assert name_of(ModelRef.parse(text), repo) == name


@given(st.text(max_size=200))
def test_every_name_can_be_typed(text: str) -> None:
    name = plain_name(text)
    ref = ModelRef.parse(f"{name}-2")
    assert (ref.scheme, str(ref)) == ("local", f"{name}-2")
    assert ModelRef.parse(name).scheme == "local"
