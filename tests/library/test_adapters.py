"""An adapter's name stands for its base with it attached, and is told apart from the base."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.errors import DamagedFile, ModelNotFound
from localllm.library.find import find_runnable
from localllm.registry import Model, Registry
from tests.support.tuned import registered_adapter


@pytest.fixture
def adapter(registry: Registry, tiny_model: Model, tmp_path: Path) -> Model:
    return registered_adapter(registry, tiny_model, tmp_path / "made")


def test_an_adapter_runs_on_its_base(registry: Registry, tiny_model: Model, adapter: Model) -> None:
    found = find_runnable("base:tuned", registry)
    assert (found.id, found.name, found.format) == (adapter.id, "base:tuned", "gguf")
    assert found.path == tiny_model.path
    assert found.attached == ((adapter.path, 1.0),)
    assert adapter.attached == tiny_model.attached == ()


def test_what_is_measured_of_it_is_told_apart(
    registry: Registry, tiny_model: Model, adapter: Model
) -> None:
    found = find_runnable("base:tuned", registry)
    digests = {adapter.digest, tiny_model.digest, found.digest}
    assert len(digests) == 3 and None not in digests
    pair = f"{tiny_model.weights[0].sha256}+{adapter.weights[0].sha256}"
    assert found.digest == hashlib.sha256(pair.encode()).hexdigest()
    registry.record(found, "bench", {})
    (kept,) = registry.measurements(adapter, "bench")
    assert (kept.model, kept.sha256) == ("base:tuned", found.digest)
    assert registry.measurements(tiny_model) == ()
    unhashed = replace(found, files=tuple(replace(f, sha256=None) for f in found.files))
    assert unhashed.digest is None


def test_an_adapter_without_its_base(
    registry: Registry, tiny_model: Model, adapter: Model, tmp_path: Path
) -> None:
    registry.remove(tiny_model)
    with pytest.raises(ModelNotFound, match="is an adapter of org/tiny, which is not here"):
        find_runnable("base:tuned", registry)
    from tests.support.tiny_models import tiny_lora

    with pytest.raises(DamagedFile, match="nothing says of which model"):
        find_runnable(str(tiny_lora(tmp_path / "loose.gguf")), registry)
