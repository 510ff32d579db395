"""Registering, naming, removing: what the index and the disk hold afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from localllm.errors import (
    AmbiguousModel,
    FileGone,
    HomeUnwritable,
    ModelNotFound,
    RegistryBroken,
    UsageProblem,
)
from localllm.refs import ModelRef
from localllm.registry import Arrival, Lineage, Model, Registry, Staged
from tests.conftest import arrival


def staged(tmp_path: Path, content: bytes, name: str = "w.gguf") -> Path:
    path = tmp_path / f"{hashlib.sha256(content).hexdigest()[:8]}-{name}"
    path.write_bytes(content)
    return path


def put(registry: Registry, tmp_path: Path, name: str, content: bytes, **more: object) -> Model:
    return registry.add(arrival(name, staged(tmp_path, content), file_name="w.gguf", **more))


def test_reading_an_empty_home_creates_nothing(registry: Registry) -> None:
    assert registry.models() == ()
    assert registry.names() == ()
    assert not registry.home.exists()


def test_a_model_comes_back_as_it_was_put_in(registry: Registry, tmp_path: Path) -> None:
    lineage = Lineage("quantize", (("p", "00"),), "localllm quantize p Q4_0", {"type": "Q4_0"},
                      {"imatrix": "ab"}, {"localllm": "0"})  # fmt: skip
    model = put(
        registry, tmp_path, "m", b"weights", variant="Q4_0", architecture="llama", n_params=7,
        n_ctx_train=2048, file_type="Q4_0", lineage=lineage, extras={"license": "MIT", "x": [1]},
    )  # fmt: skip
    again = Registry(registry.home).resolve("org/m")
    assert again == model
    assert again.lineage == lineage
    assert again.extras == {"license": "MIT", "x": [1]}
    path = registry.home / "models" / "hf" / "org" / "m" / "w.gguf"
    assert again.path == path
    assert path.read_bytes() == b"weights"
    assert again.weights[0].sha256 == hashlib.sha256(b"weights").hexdigest()


def test_identical_content_is_stored_once(registry: Registry, tmp_path: Path) -> None:
    a = put(registry, tmp_path, "a", b"same" * 1000)
    b = put(registry, tmp_path, "b", b"same" * 1000)
    assert a.path != b.path
    assert a.path.samefile(b.path)
    assert registry.remove(a) == 0  # the bytes are still needed
    assert b.path.read_bytes() == b"same" * 1000
    assert registry.remove(b) == 4000


def test_a_new_revision_never_overwrites_and_replaces_the_old(
    registry: Registry, tmp_path: Path
) -> None:
    old = put(registry, tmp_path, "m", b"old")
    registry.set_alias("mine", old)
    reader = old.path.open("rb")
    new = put(registry, tmp_path, "m", b"new", ref=ModelRef.parse("hf:org/m@beef"))
    assert reader.read() == b"old"
    assert new.id == old.id
    assert registry.resolve("mine").path.read_bytes() == b"new"
    assert not old.path.exists()
    assert len(registry.models()) == 1


def test_two_models_of_one_repository_with_one_file_name_keep_their_bytes(
    registry: Registry, tmp_path: Path
) -> None:
    one = put(registry, tmp_path, "m", b"one")
    two = registry.add(
        Arrival(
            name="org/m@beef", ref=ModelRef.parse("hf:org/m@beef"), format="gguf", source="hf",
            publisher="org", repo="m",
            files=(Staged(staged(tmp_path, b"two"), "w.gguf", 3, "22", "weights"),),
        )
    )  # fmt: skip
    assert (one.path.read_bytes(), two.path.read_bytes()) == (b"one", b"two")
    assert two.path.parent.name == "m@beef"


def test_in_place_files_are_never_moved_or_deleted(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere.gguf"
    source.write_bytes(b"theirs")
    model = registry.add(arrival("m", source, in_place=True))
    assert model.path == source
    assert registry.remove(model) == 0
    assert source.read_bytes() == b"theirs"


@pytest.mark.parametrize(
    "text",
    ["org/m:Q4_K_M", "ORG/M:q4_k_m", "hf:org/m:Q4_K_M", "hf:org/m@c0ff", "m", "m:Q4_K_M", "nick"],
)
def test_ways_to_name_one_model(registry: Registry, tmp_path: Path, text: str) -> None:
    path = staged(tmp_path, b"x")
    model = registry.add(
        Arrival(
            name="org/m:Q4_K_M", ref=ModelRef.parse("hf:org/m@c0ffee:Q4_K_M"), format="gguf",
            source="hf", publisher="org", repo="m", variant="Q4_K_M",
            files=(Staged(path, "w.gguf", 1, None, "weights"),),
        )
    )  # fmt: skip
    registry.set_alias("nick", model)
    assert registry.resolve(text).name == "org/m:Q4_K_M"


def test_path_names_a_registered_model(registry: Registry, tmp_path: Path) -> None:
    model = put(registry, tmp_path, "m", b"x")
    assert registry.resolve(str(model.path)).name == "org/m"
    with pytest.raises(ModelNotFound) as caught:
        registry.resolve(str(staged(tmp_path, b"other")))
    assert "--in-place" in (caught.value.hint or "")
    with pytest.raises(FileGone):
        registry.resolve("./nothing.gguf")


def test_several_are_listed_and_near_names_offered(registry: Registry, tmp_path: Path) -> None:
    for number, variant in enumerate(("Q4_K_M", "Q8_0")):
        registry.add(
            Arrival(
                name=f"org/gemma:{variant}", ref=ModelRef.parse(f"hf:org/gemma:{variant}"),
                format="gguf", source="hf", publisher="org", repo="gemma", variant=variant,
                files=(Staged(staged(tmp_path, b"%d" % number), f"{variant}.gguf", 1, None,
                              "weights"),),
            )
        )  # fmt: skip
    with pytest.raises(AmbiguousModel, match=r"org/gemma:Q4_K_M, org/gemma:Q8_0"):
        registry.resolve("gemma")
    with pytest.raises(ModelNotFound, match="near: org/gemma:Q8_0"):
        registry.resolve("gema:Q8_0")
    assert registry.resolve("gemma:q8_0").variant == "Q8_0"


def test_a_file_that_vanished_is_said(registry: Registry, tiny_model: Model) -> None:
    tiny_model.path.unlink()
    with pytest.raises(FileGone) as caught:
        registry.resolve(tiny_model.name)
    assert caught.value.exit_code == 3


def test_names_cannot_be_taken_twice(registry: Registry, tmp_path: Path) -> None:
    a, b = put(registry, tmp_path, "a", b"a"), put(registry, tmp_path, "b", b"b")
    registry.set_alias("x", a)
    registry.set_alias("x", a)
    for alias in ("x", "X", "org/a"):
        with pytest.raises(UsageProblem):
            registry.set_alias(alias, b)
    for alias in ("../x", "pypi:x", ".", "a b"):
        with pytest.raises(UsageProblem):
            registry.set_alias(alias, a)
    assert registry.remove_alias("X")
    assert not registry.remove_alias("x")


def test_measurements_outlive_the_model(registry: Registry, tmp_path: Path) -> None:
    model = put(registry, tmp_path, "m", b"x")
    first = registry.record(model, "bench", {"tg_tps": 1.5})
    registry.record(model, "quality", {"kld": 0.1})
    registry.remove(model)
    (found,) = registry.measurements(model, "bench")
    assert (found.id, found.data, found.sha256) == (first, {"tg_tps": 1.5}, model.weights[0].sha256)
    assert len(registry.measurements(model)) == 2


def test_a_failed_landing_leaves_no_row(registry: Registry, tmp_path: Path) -> None:
    files = tuple(
        Staged(tmp_path / name, name, 1, None, "weights") for name in ("there.gguf", "missing.gguf")
    )
    files[0].path.write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        registry.add(Arrival("org/m", ModelRef.parse("hf:org/m"), "gguf", "hf", "org", "m", files))
    assert registry.models() == ()


def test_hostile_names_stay_below_the_home(registry: Registry, tmp_path: Path) -> None:
    files = (Staged(staged(tmp_path, b"x"), "../../../../evil/../con.gguf", 1, None, "weights"),)
    model = registry.add(
        Arrival("m", ModelRef.parse("m"), "gguf", "..", "../..", "a/../../b", files)
    )
    assert (registry.home / "models") in model.path.resolve().parents
    assert model.path.read_bytes() == b"x"


def test_damaged_and_newer_indexes_are_named(registry: Registry, tiny_model: Model) -> None:
    connection = sqlite3.connect(registry.database.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RegistryBroken, match="newer localllm"):
        registry.models()
    registry.database.path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(RegistryBroken) as caught:
        registry.models()
    assert caught.value.hint == "localllm rebuild"


def test_a_home_that_is_a_file(registry: Registry, tmp_path: Path) -> None:
    registry.home.write_text("in the way")
    assert registry.models() == ()
    with pytest.raises(HomeUnwritable):
        put(registry, tmp_path, "m", b"x")
    with pytest.raises(HomeUnwritable):
        registry.partial("key", "label")


def test_the_manifest_holds_what_the_index_holds(registry: Registry, tiny_model: Model) -> None:
    registry.set_alias("nick", tiny_model)
    (path,) = registry.manifests.glob("*.json")
    document = json.loads(path.read_text())
    assert document["aliases"] == ["nick"]
    assert document["files"][0]["path"] == "models/hf/org/tiny/tiny.gguf"
    assert document["files"][0]["sha256"] == tiny_model.weights[0].sha256


def test_a_moved_home_still_works(registry: Registry, tiny_model: Model, tmp_path: Path) -> None:
    target = tmp_path / "a new 家"
    shutil.move(registry.home, target)
    assert Registry(target).resolve("tiny").path.is_file()
