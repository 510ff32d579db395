"""pull of a path: linked, cloned or copied, or registered where it lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.pull.conftest import sha256
from tests.pull.test_hub import CONFIG, REPO, safetensors
from tests.support.hub_server import HubServer

Cli = Callable[..., Done]


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_is_not_stored_twice(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path
) -> None:
    path = put(tmp_path / "my models モデル" / "tiny.gguf", models["Q4_K_M"])
    done = cli("pull", path, "--json")
    assert (done.exit_code, done.data["name"], done.data["unverified"]) == (0, "tiny", [])
    model = registry.resolve("tiny")
    assert model.path.read_bytes() == models["Q4_K_M"]
    assert model.weights[0].sha256 == sha256(models["Q4_K_M"])
    assert (model.ref.name, model.weights[0].owned) == (str(path), True)
    assert model.path.samefile(path) or not _links(tmp_path)  # or a clone, which is not seen
    assert cli("pull", path, "--json").data["reused"] is True
    assert cli("pull", model.path, "--json").data["name"] == "tiny"  # its own file
    assert cli("rm", "tiny").exit_code == 0
    assert path.read_bytes() == models["Q4_K_M"]


def _links(folder: Path) -> bool:
    """Whether this file system links rather than clones."""
    from localllm.sources.file_copy import bring

    source = put(folder / "probe", b"x")
    bring(source, 1, folder / "linked", lambda amount: None)
    return (folder / "linked").samefile(source)


def test_a_file_of_the_user_is_not_lent_to_other_models(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path, hub: HubServer
) -> None:
    """It may be written to later, which must not reach what came from a hub."""
    path = put(tmp_path / "tiny.gguf", models["Q4_K_M"])
    hub.add_repo(REPO, {"tiny-Q4_K_M.gguf": models["Q4_K_M"]})
    for first, second in ((path, REPO), (REPO, path)):
        assert cli("pull", first).exit_code == 0
        assert cli("pull", second).exit_code == 0
        with path.open("r+b") as file:
            file.write(b"XXXX")
        assert registry.resolve(REPO).path.read_bytes() == models["Q4_K_M"]
        assert cli("rm", "tiny", REPO).exit_code == 0
        put(path, models["Q4_K_M"])


def test_a_file_that_changed_is_pulled_again(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path
) -> None:
    path = put(tmp_path / "tiny.gguf", models["Q4_K_M"])
    cli("pull", path)
    path.unlink()
    put(path, models["new"])
    assert cli("pull", path, "--json").data["updated"] is True
    (model,) = registry.models()
    assert model.path.read_bytes() == models["new"]


def test_files_of_one_name_in_two_folders(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for folder, label in (("a", "Q4_K_M"), ("b", "other")):
        put(tmp_path / folder / "tiny.gguf", models[label])
        monkeypatch.chdir(tmp_path / folder)
        assert cli("pull", "./tiny.gguf").exit_code == 0
    assert {m.name: m.path.read_bytes() for m in registry.models()} == {
        "tiny": models["Q4_K_M"],
        "tiny-2": models["other"],
    }


def test_shards_come_together(
    cli: Cli, shards: dict[str, bytes], registry: Registry, tmp_path: Path
) -> None:
    for name, content in shards.items():
        put(tmp_path / name, content)
    second = sorted(shards)[1]
    assert cli("pull", tmp_path / second, "--json").data["name"] == "big-Q8_0"
    model = registry.resolve("big-Q8_0")
    assert [f.path.read_bytes() for f in model.weights] == [shards[n] for n in sorted(shards)]
    (tmp_path / second).unlink()
    assert cli("pull", tmp_path / second).exit_code == 3


def test_in_place(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path, home: Path
) -> None:
    path = put(tmp_path / "theirs" / "tiny.gguf", models["Q4_K_M"])
    assert cli("pull", path, "--in-place", "--dry-run", "--json").data["model"] is None
    assert not home.exists()
    data = cli("pull", path, "--in-place", "--json").data
    assert (data["name"], data["fetched_bytes"]) == ("tiny", 0)
    model = registry.resolve("tiny")
    assert (model.path, model.weights[0].owned) == (path, False)
    assert model.architecture == "llama"
    assert cli("pull", path, "--in-place", "--json").data["reused"] is True
    assert not (home / "models").exists()
    assert cli("verify", "tiny").exit_code == 0
    # now to keep it
    assert cli("pull", path, "--json").data["updated"] is True
    assert registry.resolve("tiny").weights[0].owned
    assert cli("rm", "tiny").exit_code == 0
    assert path.read_bytes() == models["Q4_K_M"]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_folder_of_safetensors(
    cli: Cli, registry: Registry, tmp_path: Path, in_place: bool
) -> None:
    folder = tmp_path / "my tuned model"
    put(folder / "model.safetensors", safetensors((4, 8)))
    put(folder / "config.json", json.dumps(CONFIG).encode())
    put(folder / "tokenizer.json", b"{}")
    put(folder / "trainer_state.json", b"{}")  # nothing to load a model with
    done = cli("pull", folder, *(["--in-place"] if in_place else []), "--json")
    assert done.exit_code == 0, done
    model = registry.resolve("my-tuned-model")
    assert (model.format, model.architecture, model.n_params) == ("safetensors", "llama", 32)
    assert {f.name for f in model.files} == {"model.safetensors", "config.json", "tokenizer.json"}
    assert model.path == (
        folder if in_place else registry.home / "models/file/local/my tuned model"
    )
    assert cli("verify", "my-tuned-model").exit_code == 0
    assert cli("rm", "my-tuned-model").exit_code == 0
    assert (folder / "model.safetensors").exists()


def test_a_folder_of_several_models(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path
) -> None:
    for label in ("Q4_K_M", "F16"):
        put(tmp_path / "m" / f"tiny-{label}.gguf", models[label])
    done = cli("pull", tmp_path / "m", "--json")
    assert (done.exit_code, done.data["name"]) == (0, "tiny-Q4_K_M")
    assert "nothing measurable" in done.data["why"]
    assert [r["variant"] for r in cli("pull", "--list", tmp_path / "m", "--json").data] == [
        "Q4_K_M",
        "F16",
    ]


def test_what_does_not_fit_may_still_be_kept(
    cli: Cli, models: dict[str, bytes], tmp_path: Path
) -> None:
    path = put(tmp_path / "tiny.gguf", models["Q4_K_M"])
    done = cli("pull", path, "--ctx", 2_000_000_000, "--json")
    assert (done.exit_code, done.data["verdict"]) == (0, "none")
    assert "more than there is" in done.json["warnings"][0]


def test_paths_to_nothing_and_to_no_model(cli: Cli, tmp_path: Path, home: Path) -> None:
    assert cli("pull", tmp_path / "nothing.gguf").exit_code == 3
    assert cli("pull", put(tmp_path / "x" / "text.txt", b"words")).exit_code == 7
    (tmp_path / "empty").mkdir()
    assert cli("pull", tmp_path / "empty").exit_code == 3
    assert not home.exists()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_gguf_under_another_ending(
    cli: Cli, models: dict[str, bytes], registry: Registry, tmp_path: Path, in_place: bool
) -> None:
    """As stores keep them that name files by their digests."""
    blob = put(tmp_path / f"sha256-{sha256(models['Q4_K_M'])}", models["Q4_K_M"])
    assert cli("pull", blob, *(["--in-place"] if in_place else [])).exit_code == 0
    (model,) = registry.models()
    assert (model.format, model.file_type) == ("gguf", "Q4_K_M")
    assert model.path == blob if in_place else model.path.suffix == ".gguf"


def test_no_language_model_is_kept_without_figures(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    """GGUF holds image models too, which have no layers as llama.cpp counts them."""
    from tests.support.tiny_builder import TinyModel

    model = TinyModel({"general.architecture": "flux"}, "F16")
    model.matrix("img_in.weight", (64, 32))
    done = cli("pull", model.write(tmp_path / "flux.gguf"), "--json")
    assert (done.exit_code, done.data["verdict"]) == (0, None)
    assert "not known" in done.json["warnings"][0]
    assert registry.resolve("flux").architecture == "flux"
