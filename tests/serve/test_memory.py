"""What the server says that its models take, against what llama.cpp has allocated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.errors import DoesNotFit, UsageProblem
from localllm.placement import PlanOptions
from localllm.registry import Model, Registry
from localllm.serve.resident.planner import LoadPolicy, ResidentPlanner
from localllm.serve.resident.resident import Resident
from tests.conftest import arrival
from tests.serve.conftest import start
from tests.support import native_truth
from tests.support.tiny_mmproj import gemma3_mmproj
from tests.support.tiny_models import tiny_bert, tiny_gemma3, tiny_llama

ROUNDING_BYTES = 10486  # llama.cpp's log rounds each buffer to 0.01 MiB
truth_only = pytest.mark.skipif(not native_truth.available(), reason="no memory breakdown here")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "home")
    made = arrival("eyes", tiny_gemma3(tmp_path / "eyes.gguf"), architecture="gemma3")
    big = gemma3_mmproj(tmp_path / "p.gguf", image_size=448, patch=14, n_embd=256, merge=4)
    projector = replace(arrival("p", big).files[0], role="mmproj")
    registry.add(replace(made, name="eyes", files=(*made.files, projector)))
    for name, path in (("bert", tiny_bert(tmp_path / "b.gguf")),
                       ("plain", tiny_llama(tmp_path / "l.gguf"))):  # fmt: skip
        registry.add(replace(arrival(name, path, architecture=name), name=name))
    return registry


def named(registry: Registry, name: str) -> Model:
    return next(model for model in registry.models() if model.name == name)


@pytest.fixture
def opened() -> Iterator[Any]:
    """`opened(model, n_ctx=None, **policy)` is (planner, resident)."""
    made: list[Resident] = []

    def open_it(
        model: Model, n_ctx: int | None = None, **said: Any
    ) -> tuple[ResidentPlanner, Resident]:
        policy: dict[str, Any] = {"plan": PlanOptions(n_ctx=512), "slots": 2, "threads": 1, **said}
        planner = ResidentPlanner(LoadPolicy(**policy), lambda: None)
        planner.know(model.name, model, n_ctx)
        assert planner.fits(model.name, [])
        made.append(planner.open(model.name))
        return planner, made[-1]

    yield open_it
    for one in made:
        one.close()


def allocated(resident: Resident) -> int:
    """Weights, cache, buffers and outputs of its main context."""
    context = resident.opened.context
    found = sum(one.total for one in native_truth.breakdown(context.handle).values())
    return found + sum(one.output_bytes for one in context.buffers)


@truth_only
def test_a_model_that_sees(registry: Registry, opened: Any) -> None:
    model = named(registry, "eyes")
    _, resident = opened(model)
    text = allocated(resident)
    (projector,) = model.with_role("mmproj")
    planned = resident.memory_bytes
    assert resident.pending is not None  # nobody has sent an image
    vision = resident.vision("eyes")
    assert resident.pending is None
    images = 4 * (3 * 448**2 + 3 * 64 * 256)  # pixels, and embeddings three times
    real = text + projector.path.stat().st_size + sum(b.compute_bytes for b in vision.buffers)
    measured = resident.memory_bytes
    assert measured == pytest.approx(real + images, rel=0.02, abs=4 * ROUNDING_BYTES)
    assert planned == pytest.approx(measured, rel=0.1)  # estimated before it was loaded
    assert resident.gpu_bytes == resident.opened.plan.gpu_bytes


@truth_only
def test_a_model_that_makes_vectors(registry: Registry, opened: Any) -> None:
    """Its one context is the one that embeds; the plan is llama.cpp's own."""
    _, resident = opened(named(registry, "bert"))
    assert resident.opened.plan.basis == "llama.cpp"
    assert resident.embedder().context is resident.opened.context
    assert abs(resident.memory_bytes - allocated(resident)) <= 2 * ROUNDING_BYTES
    with pytest.raises(UsageProblem, match="makes vectors and cannot answer"):
        resident.generates("bert")


@truth_only
def test_vectors_beside_answers(registry: Registry, opened: Any) -> None:
    _, resident = opened(named(registry, "plain"))
    before = resident.memory_bytes
    context = resident.embedder().context
    found = native_truth.breakdown(context.handle)
    more = sum(one.context + one.compute for one in found.values())
    more += sum(one.output_bytes for one in context.buffers)
    assert abs(resident.memory_bytes - before - more) <= 2 * ROUNDING_BYTES


def test_vectors_that_do_not_fit(registry: Registry, opened: Any) -> None:
    model = named(registry, "plain")
    _, roomy = opened(model)
    _, tight = opened(model, memory_bytes=roomy.memory_bytes + 1000)
    with pytest.raises(DoesNotFit, match="vectors of plain need"):
        tight.embedder()
    assert tight.alive


def test_a_projector_counts_before_the_first_image(registry: Registry, opened: Any) -> None:
    eyes, plain = named(registry, "eyes"), named(registry, "plain")
    _, alone = opened(plain)
    planner, seeing = opened(eyes)
    room = seeing.memory_bytes + alone.memory_bytes
    planner = ResidentPlanner(
        LoadPolicy(PlanOptions(n_ctx=512), slots=2, threads=1, memory_bytes=room - 1), lambda: None
    )
    for model in (eyes, plain):
        planner.know(model.name, model)
    assert planner.fits("eyes", [])
    first = planner.open("eyes")
    assert not planner.fits("plain", ["eyes"])
    first.close()


# --- num_ctx ---------------------------------------------------------------------------------


def test_a_modelfiles_num_ctx_is_the_context(registry: Registry, opened: Any) -> None:
    model = named(registry, "plain")
    planner, resident = opened(model, n_ctx=256, plan=PlanOptions())
    assert (resident.n_ctx, resident.opened.context.n_ctx_seq) == (256, 512)  # of two slots
    assert not planner.too_short(resident, 256)
    assert planner.too_short(resident, 300)  # another name of the same weights
    assert planner.too_short(resident, None)  # the base: the default, or what it was trained for
    planner, resident = opened(model, n_ctx=256)  # the operator's --ctx is as it is
    assert resident.n_ctx == 512
    assert not planner.too_short(resident, 1024)


def test_num_ctx_over_http(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home")
    for name, n_ctx in (("base", None), ("short", 256), ("longer", 512)):
        made = arrival(name, tiny_llama(tmp_path / f"{name}.gguf"), architecture="llama")
        extras = {"parameters": {"num_ctx": n_ctx}} if n_ctx else {}
        registry.add(replace(made, name=name, extras=extras))
    server = start(tmp_path / "home", "--threads", "1", "--slots", "2")

    def ask(name: str, n_words: int) -> Any:
        body = {"model": name, "prompt": "word " * n_words, "max_tokens": 1}
        return server.post("/v1/completions", body)

    def context() -> int:
        (one,) = server.get("/api/ps").json["models"]
        return int(one["context_length"])

    try:
        assert ask("short", 20).status == 200
        assert context() == 256
        refused = ask("short", 200)
        assert refused.status == 400
        assert refused.json["error"]["code"] == "context_length_exceeded"
        assert ask("longer", 80).status == 200
        assert context() == 512
        assert ask("short", 20).status == 200  # fits in what is loaded
        assert context() == 512
        assert ask("short", 200).status == 400  # and is bounded by its own all the same
    finally:
        server.stop()
