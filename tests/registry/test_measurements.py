"""Measurements and notes: what is kept beside a model."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from localllm.errors import ModelNotFound
from localllm.library.describe import stray
from localllm.registry import Model, Registry
from localllm.registry.upkeep import rebuild
from tests.conftest import arrival


def test_a_measurement_grows_and_outlives_its_model(registry: Registry, tiny_model: Model) -> None:
    number = registry.record(tiny_model, "bench", {"rows": []})
    registry.revise(number, {"rows": [1]})
    registry.remove(tiny_model)
    kept = registry.measurement(number)
    assert kept is not None
    assert (kept.model, kept.data) == (tiny_model.name, {"rows": [1]})
    assert registry.measurements_of_kind("bench") == (kept,)
    assert registry.measurement(number + 1) is None


def test_a_note_survives_a_rebuild(registry: Registry, tiny_model: Model) -> None:
    registry.note(tiny_model, "defaults", {"n_threads": 3})
    again = registry.resolve(tiny_model.name)
    assert again.extras["defaults"] == {"n_threads": 3}
    (registry.home / "registry.db").unlink()
    rebuild(registry, lambda path: stray(path, registry))
    assert registry.resolve(tiny_model.name).extras["defaults"] == {"n_threads": 3}
    forgotten = registry.note(registry.resolve(tiny_model.name), "defaults", None)
    assert "defaults" not in forgotten.extras


def test_a_note_on_a_removed_model_is_refused(registry: Registry, tiny_model: Model) -> None:
    registry.remove(tiny_model)
    with pytest.raises(ModelNotFound):
        registry.note(tiny_model, "defaults", {})


def test_a_note_stays_when_the_same_content_comes_again(registry: Registry, tmp_path: Path) -> None:
    def come(content: bytes) -> Model:
        path = tmp_path / "m.gguf"
        path.write_bytes(content)
        return registry.add(arrival("m", path))

    registry.note(come(b"one"), "defaults", {"n_threads": 3})
    assert come(b"one").extras["defaults"] == {"n_threads": 3}
    assert "defaults" not in come(b"two").extras


def test_a_split_model_is_told_apart_to_its_last_shard(tiny_model: Model) -> None:
    """A first shard without tensors is the same for every model of this shape."""
    (file,) = tiny_model.weights

    def split(*digests: str | None) -> Model:
        return replace(tiny_model, files=tuple(replace(file, sha256=one) for one in digests))

    assert tiny_model.digest == file.sha256
    assert split("a" * 64, "b" * 64).digest == sha256(f"{'a' * 64}+{'b' * 64}".encode()).hexdigest()
    assert split("a" * 64, "c" * 64).digest != split("a" * 64, "b" * 64).digest
    assert split("a" * 64, None).digest is None
