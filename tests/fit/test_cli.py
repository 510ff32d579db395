"""fit through the command line: here, on paper, and for what is not downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Model
from tests.conftest import Done
from tests.support.hub_server import HubServer
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]


def test_a_registered_model_here(cli: Cli, tiny_model: Model) -> None:
    import gguf

    done = cli("fit", "tiny", "--ctx", "1000", "--json")
    assert done.exit_code == 0, done
    (fit,) = done.data["fits"]
    plan = fit["plan"]
    reader = gguf.GGUFReader(tiny_model.path)
    weights = sum(int(t.n_bytes) for t in reader.tensors)
    assert plan["host"]["weights_bytes"] == pytest.approx(weights, rel=0.01)
    # 2 layers, K and V, 2 heads of 64 in f16; cells are padded to a multiple of 256
    assert plan["host"]["kv_bytes"] == 2 * 2 * (2 * 64) * 2 * 1024
    assert plan["basis"] == "llama.cpp"
    assert plan["verdict"] == "cpu"


def test_on_paper_the_verdict_follows_the_memory(cli: Cli, tiny_model: Model) -> None:
    done = cli("fit", "tiny", "--vram", "24GiB", "--vram", "257MiB", "--json")
    assert [f["plan"]["verdict"] for f in done.data["fits"]] == ["all", "none"]
    assert done.exit_code == 4
    assert done.json["error"]["kind"] == "does_not_fit"
    assert cli("fit", "tiny", "--gpu", "rtx 4090", "--gpu", "RTX 3090:2").exit_code == 0


def test_several_conversations_and_a_smaller_cache(cli: Cli, tiny_model: Model) -> None:
    def kv(*more: str) -> int:
        data = cli("fit", "tiny", "--ctx", "1024", *more, "--json").data
        return int(data["fits"][0]["plan"]["host"]["kv_bytes"])

    assert kv("--parallel", "4") == 4 * kv()
    assert kv("--kv", "q8_0") * 32 == kv() * 17  # 34 bytes for 32 elements instead of 64
    assert kv("--kv", "f16,q8_0") * 64 == kv() * 49


@pytest.mark.parametrize(
    ("args", "code"),
    [(("tiny", "--gpu", "Voodoo 2"), 2), (("tiny", "--vram", "much"), 2),
     (("tiny", "--ctx", "0"), 2),
     (("tiny", "--kv", "q99"), 2), (("missing",), 3), (("tiny", "--ctx", "2000000000"), 4)],
)  # fmt: skip
def test_bad_requests(cli: Cli, tiny_model: Model, args: tuple[str, ...], code: int) -> None:
    done = cli("fit", *args)
    assert done.exit_code == code, done
    assert done.err.splitlines()[-1].startswith(("error:", "  try:"))


def test_a_remote_model_is_looked_at_without_fetching_its_weights(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    path = tiny_llama(tmp_path / "m-F16.gguf", n_layer=8, n_embd=512, n_ff=2048)
    content = path.read_bytes()
    with HubServer() as hub:
        hub.add_repo("org/m", {"m-F16.gguf": content})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        remote = cli("fit", "org/m:F16", "--json")
        assert remote.exit_code == 0, remote
        assert hub.served_bytes("/cdn/*") < 2 * 1024 * 1024 < len(content)
    there = remote.data["fits"][0]["plan"]
    here = cli("fit", path, "--json").data["fits"][0]["plan"]
    for plan in (there, here):  # what is measured anew each time
        del plan["speed"], plan["host"]["available_bytes"]
    assert there == here
    assert not home.exists()
