"""pull from a Hub: variants, files that belong together, what the registry holds then."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.pull.conftest import sha256
from tests.support.http_server import Fault
from tests.support.hub_server import TOKEN, HubServer

Cli = Callable[..., Done]
REPO = "org/tiny-GGUF"


def publish(hub: HubServer, models: dict[str, bytes], *labels: str, **more: object) -> str:
    """The repository with these variants; gives its commit."""
    files = {f"tiny-{label}.gguf": models[label] for label in labels}
    return hub.add_repo(REPO, {**files, "README.md": b"# tiny"}, **more).commit  # type: ignore[arg-type]


def safetensors(shape: tuple[int, int] = (4, 8), fill: bytes = b"\1") -> bytes:
    """A file with one bfloat16 tensor, by the format's own description."""
    size = 2 * shape[0] * shape[1]
    header = json.dumps(
        {"model.w": {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, size]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + fill * size


# --- one variant ------------------------------------------------------------------------


def test_a_variant_arrives_whole_and_pinned(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    commit = publish(hub, models, "Q4_K_M", "Q8_0", card={"license": "mit"})
    done = cli("pull", f"{REPO}:Q4_K_M", "--json")
    assert done.exit_code == 0, done
    data = done.data
    content = models["Q4_K_M"]
    assert data["name"] == f"{REPO}:Q4_K_M"
    assert data["ref"] == f"hf:{REPO}@{commit}:Q4_K_M"
    assert (data["size_bytes"], data["fetched_bytes"]) == (len(content), len(content))
    assert (data["reused"], data["updated"], data["unverified"]) == (False, False, [])
    model = registry.resolve(REPO)
    assert model.path.read_bytes() == content
    assert model.weights[0].sha256 == sha256(content)
    assert (model.architecture, model.file_type, model.format) == ("llama", "Q4_K_M", "gguf")
    assert (model.n_ctx_train, model.extras["license"]) == (2048, "mit")
    assert model.path == registry.home / "models/hf/org/tiny-GGUF/tiny-Q4_K_M.gguf"
    # the header once (the file is smaller than what is asked for at first), then the file
    assert hub.served_bytes("/cdn/*") == 2 * len(content)
    assert list((registry.home / "partial").iterdir()) == []


@pytest.mark.parametrize(
    "text", [f"{REPO}:q4_k_m", f"hf:{REPO}:tiny-Q4_K_M.gguf", f"{REPO}@main:Q4_K_M"]
)
def test_other_words_for_it_fetch_nothing_again(
    cli: Cli, hub: HubServer, models: dict[str, bytes], text: str
) -> None:
    publish(hub, models, "Q4_K_M", "Q8_0")
    cli("pull", f"{REPO}:Q4_K_M")
    before = hub.served_bytes("/cdn/*")
    done = cli("pull", text, "--json")
    pinned = "@main" in text
    assert (done.exit_code, done.data["reused"]) == (0, not pinned)
    header = len(models["Q4_K_M"]) if pinned else 0  # a model of its own, its file a link
    assert hub.served_bytes("/cdn/*") == before + header
    assert done.data["linked_bytes"] == header


def test_unknown_variants_and_repositories(
    cli: Cli, hub: HubServer, models: dict[str, bytes], home: Path
) -> None:
    publish(hub, models, "Q4_K_M", "Q8_0")
    done = cli("pull", f"{REPO}:Q4_K_S", "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (3, "source_not_found")
    assert "Q4_K_M" in done.json["error"]["hint"]
    assert cli("pull", "org/nothing").exit_code in (3, 6)  # without a token: both look the same
    assert cli("pull", "plain-name").exit_code == 2
    assert not home.exists()


def test_a_gated_repository(cli: Cli, shell: Cli, hub: HubServer, models: dict[str, bytes]) -> None:
    publish(hub, models, "Q4_K_M", gated="auto")
    done = cli("pull", REPO, "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (6, "access_denied")
    env = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
    assert shell("pull", REPO, env=env).exit_code == 0


def test_progress_as_json_lines(cli: Cli, hub: HubServer, models: dict[str, bytes]) -> None:
    publish(hub, models, "F16")
    done = cli("pull", f"{REPO}:F16", "--progress", "json", "--json")
    lines = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    mine = [line for line in lines if line["label"] == f"pull {REPO}:F16"]
    size = len(models["F16"])
    assert [mine[0]["event"], mine[-1]["event"]] == ["start", "done"]
    assert (mine[0]["done"], mine[-1]["done"], mine[0]["total"]) == (0, size, size)
    assert {line["unit"] for line in mine} == {"bytes"}


# --- files that belong together ---------------------------------------------------------


def test_split_files_are_one_model(
    cli: Cli, hub: HubServer, shards: dict[str, bytes], registry: Registry
) -> None:
    hub.add_repo("org/big-GGUF", {f"Q8_0/{n}": b for n, b in reversed(shards.items())})
    done = cli("pull", "org/big-GGUF:Q8_0", "--json")
    assert done.exit_code == 0, done
    model = registry.resolve("big-GGUF")
    assert [f.path.name for f in model.weights] == sorted(shards)
    assert [f.sha256 for f in model.weights] == [sha256(shards[n]) for n in sorted(shards)]
    assert model.path.name == sorted(shards)[0]
    import gguf

    from localllm.engine.model import Model
    from localllm.engine.options import LoadOptions

    with Model.load(model.path, LoadOptions()):  # llama.cpp finds the others itself
        pass
    tensors = [t for f in model.files for t in gguf.GGUFReader(f.path).tensors]
    assert model.n_params == sum(int(t.n_elements) for t in tensors)


def test_shards_that_do_not_belong_together_are_refused_before_they_are_fetched(
    cli: Cli, hub: HubServer, shards: dict[str, bytes], home: Path
) -> None:
    names = sorted(shards)
    swapped = {names[0]: shards[names[0]], names[1]: shards[names[2]], names[2]: shards[names[2]]}
    hub.add_repo("org/big-GGUF", swapped)
    done = cli("pull", "org/big-GGUF", "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (7, "damaged_file")
    assert all(r.headers.get("range") for r in hub.matching("/cdn/*"))  # headers only
    assert not (home / "registry.db").exists()


def test_a_missing_shard_is_named(
    cli: Cli, hub: HubServer, shards: dict[str, bytes], models: dict[str, bytes]
) -> None:
    lost = sorted(shards)[1]
    there = {n: b for n, b in shards.items() if n != lost}
    hub.add_repo("org/big-GGUF", {**there, "big-Q4_K_M.gguf": models["Q4_K_M"]})
    assert lost in cli("pull", "org/big-GGUF:Q8_0").err
    rows = cli("pull", "--list", "org/big-GGUF", "--json").data
    assert [(r["variant"], r["missing"]) for r in rows] == [("Q4_K_M", []), ("Q8_0", [lost])]


def test_the_image_encoder_comes_along(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    mmproj = models["lora"]  # any bytes: nobody looks into a companion
    hub.add_repo(
        REPO, {"tiny-Q4_K_M.gguf": models["Q4_K_M"], "tiny-Q8_0.gguf": models["Q8_0"],
               "mmproj-F16.gguf": mmproj}
    )  # fmt: skip
    assert cli("pull", f"{REPO}:Q4_K_M").exit_code == 0
    path = Path(cli("path", REPO, "--mmproj").out.strip())
    assert path.read_bytes() == mmproj
    done = cli("pull", f"{REPO}:Q8_0", "--json")
    assert done.data["linked_bytes"] == len(mmproj)  # that of the other variant
    assert registry.resolve(f"{REPO}:Q8_0").path.read_bytes() == models["Q8_0"]
    assert cli("rm", f"{REPO}:Q4_K_M", "--json").data[0]["freed_bytes"] == len(models["Q4_K_M"])
    assert cli("verify", "--all").exit_code == 0


def test_a_lora_adapter_in_gguf_form(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    hub.add_repo(
        "org/my-lora", {"my-lora-F32.gguf": models["lora"]}, card={"base_model": ["org/base"]}
    )
    done = cli("pull", "org/my-lora", "--json")
    assert (done.exit_code, done.data["verdict"]) == (0, None)
    model = registry.resolve("my-lora")
    assert (model.format, model.architecture) == ("adapter", "llama")
    assert model.path.read_bytes() == models["lora"]
    assert cli("show", "my-lora", "--json").data["base_model"] == "org/base"


def test_a_peft_adapter(cli: Cli, hub: HubServer, registry: Registry) -> None:
    config = json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"}).encode()
    files = {"adapter_config.json": config, "adapter_model.safetensors": safetensors((2, 8))}
    hub.add_repo("org/peft", files, card={"base_model": "org/base"})
    assert cli("pull", "org/peft").exit_code == 0
    model = registry.resolve("org/peft")
    assert (model.format, model.n_params) == ("adapter", 16)
    assert {f.name: f.path.read_bytes() for f in model.files} == files
    assert model.extras["base_model"] == "org/base"


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 4096,
}


def test_a_safetensors_model_is_kept_whole_and_described(
    cli: Cli, hub: HubServer, registry: Registry
) -> None:
    index = {"weight_map": {"model.w": "model-00001-of-00002.safetensors"}}
    files = {
        "model-00001-of-00002.safetensors": safetensors((4, 8)),
        "model-00002-of-00002.safetensors": safetensors((3, 8), b"\2"),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "LICENSE": b"MIT",
    }
    more = {"README.md": b"#", "pytorch_model.bin": b"\0" * 100, "original/x.pth": b"\0"}
    hub.add_repo("org/plain", {**files, **more})
    done = cli("pull", "org/plain", "--json")
    assert done.exit_code == 0, done
    model = registry.resolve("org/plain")
    assert {f.name: f.path.read_bytes() for f in model.files} == files
    assert (model.format, model.architecture, model.file_type) == ("safetensors", "llama", "BF16")
    assert (model.n_params, model.n_ctx_train) == (4 * 8 + 3 * 8, 4096)
    assert model.path == registry.home / "models/hf/org/plain"
    assert cli("show", "org/plain", "--json").data["n_params"] == 56
    assert cli("verify", "org/plain").exit_code == 0


def test_a_damaged_safetensors_file_is_not_registered(
    cli: Cli, hub: HubServer, registry: Registry
) -> None:
    files = {"model.safetensors": b"\xff" * 64, "config.json": json.dumps(CONFIG).encode()}
    hub.add_repo("org/plain", files)
    done = cli("pull", "org/plain", "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (7, "damaged_file")
    assert done.json["error"]["message"].startswith("model.safetensors: ")
    assert registry.models() == ()


# --- what arrives wrong -----------------------------------------------------------------


def test_a_damaged_header_is_found_before_the_download(
    cli: Cli, hub: HubServer, models: dict[str, bytes], home: Path
) -> None:
    content = bytearray(models["F16"] * 2)
    content[8:16] = b"\xff" * 8  # the number of tensors
    hub.add_repo(REPO, {"tiny-F16.gguf": bytes(content)})
    done = cli("pull", REPO, "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (7, "damaged_file")
    assert hub.served_bytes("/cdn/*") <= 1 << 20
    assert not (home / "registry.db").exists()


def test_wrong_bytes_on_the_way_are_found_and_not_kept(
    cli: Cli, hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    publish(hub, models, "Q4_K_M")
    hub.fail("/cdn/*", Fault())  # the header comes as it is
    hub.fail("/cdn/*", Fault(wrong_bytes=True))
    done = cli("pull", REPO, "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (7, "checksum_mismatch")
    assert registry.models() == ()
    assert list((registry.home / "partial").iterdir()) == []
    assert cli("pull", REPO).exit_code == 0
    assert registry.resolve(REPO).path.read_bytes() == models["Q4_K_M"]
