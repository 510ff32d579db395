"""pull of what is here, in part, in an older state, or of what cannot be asked for now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.pull.conftest import sha256
from tests.pull.test_hub import CONFIG, REPO, publish, safetensors
from tests.support.http_server import Fault
from tests.support.hub_server import HubServer

Cli = Callable[..., Done]
NAME = f"{REPO}:Q4_K_M"


def weights_asked(hub: HubServer) -> int:
    """Requests for a file from its start to its end, as a download makes them."""
    return len([r for r in hub.matching("/cdn/*") if r.range_bytes == 0])


def change(hub: HubServer, files: dict[str, bytes], commit: str, repo: str = REPO) -> None:
    """A new commit on main; the old one is still served under its hash."""
    hub.add_repo(repo, files, commit=commit)


# --- the source has changed -------------------------------------------------------------


def test_a_new_revision_replaces_the_old_one_when_it_has_landed(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    publish(hub, models, "Q4_K_M", "Q8_0")
    cli("pull", NAME)
    cli("cp", NAME, "nick")
    old = registry.resolve(NAME)
    change(hub, {"tiny-Q4_K_M.gguf": models["new"]}, "b" * 40)

    hub.fail("/cdn/*", Fault())
    hub.fail("/cdn/*", Fault(wrong_bytes=True))
    assert cli("pull", NAME).exit_code == 7
    assert registry.resolve("nick").path.read_bytes() == models["Q4_K_M"]  # still the old one

    done = cli("pull", "nick", "--json")
    assert (done.exit_code, done.data["updated"], done.data["name"]) == (0, True, NAME)
    new = registry.resolve("nick")
    assert new.path.read_bytes() == models["new"]
    assert new.ref.revision == "b" * 40
    assert not old.path.exists()
    assert len(registry.models()) == 1
    assert cli("verify", "--all").exit_code == 0


def test_a_commit_that_leaves_the_model_alone_fetches_nothing(
    cli: Cli, hub: HubServer, models: dict[str, bytes]
) -> None:
    publish(hub, models, "Q4_K_M")
    cli("pull", NAME)
    change(hub, {"tiny-Q4_K_M.gguf": models["Q4_K_M"], "README.md": b"new words"}, "b" * 40)
    before = hub.served_bytes("/cdn/*")
    assert cli("pull", NAME, "--json").data["reused"] is True
    assert hub.served_bytes("/cdn/*") == before


def test_a_small_file_that_changed_is_fetched_and_the_weights_are_not(
    cli: Cli, hub: HubServer, registry: Registry
) -> None:
    files = {"model.safetensors": safetensors(), "config.json": json.dumps(CONFIG).encode()}
    hub.add_repo("org/plain", files)
    cli("pull", "org/plain")
    longer = json.dumps({**CONFIG, "max_position_embeddings": 8192}).encode()
    change(hub, {**files, "config.json": longer}, "b" * 40, "org/plain")
    before = hub.served_bytes("/cdn/*")
    data = cli("pull", "org/plain", "--json").data
    assert data["updated"] is True
    assert (data["linked_bytes"], data["fetched_bytes"]) == (len(safetensors()), len(longer))
    assert hub.served_bytes("/cdn/*") == before
    model = registry.resolve("org/plain")
    assert model.n_ctx_train == 8192
    assert (model.path / "config.json").read_bytes() == longer
    assert (model.path / "model.safetensors").read_bytes() == safetensors()


def test_a_pinned_revision_is_a_model_of_its_own(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    repo = hub.add_repo(REPO, {"tiny-Q4_K_M.gguf": models["Q4_K_M"]})
    repo.branches["v1"] = repo.commit
    assert cli("pull", f"{REPO}@v1:Q4_K_M").exit_code == 0
    change(hub, {"tiny-Q4_K_M.gguf": models["new"]}, "b" * 40)
    assert cli("pull", NAME).exit_code == 0
    assert {m.name: m.path.read_bytes() for m in registry.models()} == {
        f"{REPO}@v1:Q4_K_M": models["Q4_K_M"],
        NAME: models["new"],
    }
    cli("cp", f"{REPO}@v1:Q4_K_M", "first")
    hub.repos[REPO].branches["v1"] = "b" * 40
    assert cli("pull", "first", "--json").data["ref"] == f"hf:{REPO}@{'b' * 40}:Q4_K_M"
    assert registry.resolve("first").path.samefile(registry.resolve(NAME).path)


# --- nobody can be asked ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["offline", "no network"])
def test_without_a_network_what_is_here_is_used(
    cli: Cli, hub: HubServer, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    publish(hub, models, "Q4_K_M", "Q8_0")
    cli("pull", NAME)
    if how == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # nobody listens there
    done = cli("pull", REPO, "--json")
    assert (done.exit_code, done.data["reused"], done.data["name"]) == (0, True, NAME)
    assert NAME in done.json["warnings"][0]
    done = cli("pull", f"{REPO}:Q8_0", "--json")
    kind = "offline_mode" if how == "offline" else "source_unreachable"
    assert (done.exit_code, done.json["error"]["kind"]) == (6, kind)


def test_a_hub_that_is_down_is_no_failure_for_what_is_here(
    cli: Cli, hub: HubServer, models: dict[str, bytes]
) -> None:
    publish(hub, models, "Q4_K_M")
    cli("pull", NAME)
    hub.fail("/api/*", Fault(status=500), times=-1)
    done = cli("pull", NAME, "--json")
    assert (done.exit_code, done.data["reused"]) == (0, True)
    assert done.json["warnings"]


# --- the same content is here -----------------------------------------------------------


def test_the_same_file_of_another_repository_is_linked(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    for repo in ("org/a-GGUF", "org/b-GGUF"):
        hub.add_repo(repo, {"m-Q8_0.gguf": models["Q8_0"]})
    cli("pull", "org/a-GGUF")
    before = weights_asked(hub)
    data = cli("pull", "org/b-GGUF", "--json").data
    assert (data["fetched_bytes"], data["linked_bytes"]) == (0, len(models["Q8_0"]))
    assert weights_asked(hub) == before
    a, b = registry.resolve("a-GGUF").path, registry.resolve("b-GGUF").path
    assert a != b
    assert a.samefile(b)


def test_a_damaged_copy_is_not_linked_but_mended(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    for repo in ("org/a-GGUF", "org/b-GGUF"):
        hub.add_repo(repo, {"m-Q8_0.gguf": models["Q8_0"]})
    cli("pull", "org/a-GGUF")
    with registry.resolve("a-GGUF").path.open("r+b") as file:
        file.seek(200_000)
        file.write(b"\0\0\0\0")
    assert cli("verify", "a-GGUF").exit_code == 7
    done = cli("pull", "org/b-GGUF", "--json")
    assert (done.data["fetched_bytes"], done.data["linked_bytes"]) == (len(models["Q8_0"]), 0)
    assert cli("verify", "--all").exit_code == 0  # the old name has the new bytes too
    assert sha256(registry.resolve("a-GGUF").path) == sha256(models["Q8_0"])


def test_a_model_whose_file_is_gone_is_fetched_again(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    publish(hub, models, "Q4_K_M")
    cli("pull", NAME)
    registry.resolve(NAME).path.unlink()
    assert cli("pull", NAME, "--json").data["fetched_bytes"] == len(models["Q4_K_M"])
    assert cli("verify", NAME).exit_code == 0


# --- checked before ---------------------------------------------------------------------


def test_a_dry_run_says_all_and_writes_nothing(
    cli: Cli, hub: HubServer, models: dict[str, bytes], home: Path
) -> None:
    publish(hub, models, "F16", "Q4_K_M")
    done = cli("pull", f"{REPO}:F16", "--dry-run", "--json")
    assert done.exit_code == 0
    data = done.data
    assert (data["model"], data["missing_bytes"]) == (None, len(models["F16"]))
    assert data["need_bytes"] > len(models["F16"])
    assert data["verdict"] in ("all", "cpu", "partial")
    assert weights_asked(hub) == 0
    assert not home.exists()
    cli("pull", f"{REPO}:F16")
    assert cli("pull", f"{REPO}:F16", "--dry-run", "--json").data["reused"] is True


def test_what_does_not_fit_the_memory_is_refused_before_the_download(
    cli: Cli, hub: HubServer, models: dict[str, bytes], home: Path
) -> None:
    publish(hub, models, "Q4_K_M", "Q8_0")
    ctx = ("--ctx", 2_000_000_000)  # the cache alone would be a terabyte
    done = cli("pull", NAME, *ctx, "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (4, "does_not_fit")
    assert "--ctx 2048" in done.json["error"]["hint"]  # what the model was trained for
    assert "--force" in done.json["error"]["hint"]
    assert weights_asked(hub) == 0
    assert not (home / "registry.db").exists()
    assert cli("pull", REPO, *ctx).exit_code == 4  # none of the variants
    assert cli("pull", NAME, *ctx, "--dry-run").exit_code == 4
    done = cli("pull", NAME, *ctx, "--force", "--json")
    assert (done.exit_code, done.data["verdict"]) == (0, "none")


def test_options_that_make_no_sense_together(
    cli: Cli, hub: HubServer, models: dict[str, bytes]
) -> None:
    publish(hub, models, "Q4_K_M")
    assert cli("pull", NAME, "--in-place").exit_code == 2
    assert cli("pull", NAME, "--sha256", "0" * 64).exit_code == 2
    assert cli("pull", "--list", "no-source").exit_code == 2
