"""quantize through the real llama.cpp: types, sizes, lineage, reuse, refusal, interruption."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Model, Registry
from tests.conftest import Done, arrival
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]


@pytest.fixture
def f16(registry: Registry, tmp_path: Path) -> Model:
    path = tiny_llama(tmp_path / "made.gguf", n_layer=3)
    return registry.add(arrival("tiny-F16", path, architecture="llama", file_type="F16"))


def types_in(path: Path) -> dict[str, str]:
    """Tensor types by gguf's own reader."""
    import gguf

    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def test_the_result_has_the_types_and_the_size_it_says(cli: Cli, f16: Model) -> None:
    import gguf

    done = cli("quantize", "tiny-F16", "q8_0", "--json")
    assert done.exit_code == 0, done
    path = Path(done.data["model"]["files"][0]["path"])
    types = types_in(path)
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"
    assert done.data["name"] == "tiny:Q8_0"
    expected = sum(int(t.n_bytes) for t in gguf.GGUFReader(path).tensors)
    assert done.data["after_bytes"] == expected
    assert done.data["model"]["file_type"] == "Q8_0"


def test_lineage_stands_in_the_index_and_in_the_file(
    cli: Cli, f16: Model, registry: Registry
) -> None:
    cli("quantize", "tiny-F16", "Q4_0", "--pure")
    model = registry.resolve("tiny:Q4_0")
    assert model.lineage is not None
    assert model.lineage.parents == (("org/tiny-F16", f16.weights[0].sha256),)
    assert model.lineage.parameters == {"type": "Q4_0", "pure": True}
    assert model.lineage.command == "localllm quantize org/tiny-F16 Q4_0 --pure"
    for path in registry.manifests.iterdir():
        path.unlink()
    registry.database.path.unlink()
    assert cli("rebuild").exit_code == 0
    again = next(m for m in registry.models() if m.lineage is not None)
    assert again.lineage == model.lineage
    assert again.name == "tiny:Q4_0"


def test_made_again_it_is_reused_and_made_otherwise_it_is_another(
    cli: Cli, f16: Model, registry: Registry
) -> None:
    first = cli("quantize", "tiny-F16", "Q4_0", "--json").data
    again = cli("quantize", "tiny-F16", "Q4_0", "--json").data
    assert (first["reused"], again["reused"]) == (False, True)
    assert again["after_bytes"] == first["after_bytes"]
    other = cli("quantize", "tiny-F16", "Q4_0", "--pure", "--json").data
    assert other["name"] == "tiny:Q4_0-2"
    named = cli("quantize", "tiny-F16", "Q4_0", "--name", "mine:small", "--json").data
    assert named["name"] == "mine:small"
    assert len(registry.models()) == 4


def test_dry_run_says_the_exact_size_and_writes_nothing(
    cli: Cli, f16: Model, registry: Registry
) -> None:
    plan = cli("quantize", "tiny-F16", "Q5_K_M", "--dry-run", "--json").data
    assert plan["model"] is None
    assert [m.name for m in registry.models()] == ["org/tiny-F16"]
    assert not (registry.home / "partial").exists() or not list(
        (registry.home / "partial").iterdir()
    )
    made = cli("quantize", "tiny-F16", "Q5_K_M", "--json").data
    assert made["after_bytes"] == plan["after_bytes"]


def test_a_quantized_source_is_refused_unless_allowed(cli: Cli, f16: Model) -> None:
    cli("quantize", "tiny-F16", "Q8_0")
    done = cli("quantize", "tiny:Q8_0", "Q4_0")
    assert done.exit_code == 2
    assert "--allow-requantize" in done.err
    assert cli("quantize", "tiny:Q8_0", "Q4_0", "--allow-requantize").exit_code == 0


@pytest.mark.parametrize(
    ("args", "code"),
    [(("Q9_Z",), 2), (("IQ2_XXS",), 2), (("Q4_0", "--output-type", "q99"), 2),
     (("Q4_0", "--name", "../evil"), 2)],
)  # fmt: skip
def test_bad_requests_register_nothing(
    cli: Cli, f16: Model, registry: Registry, args: tuple[str, ...], code: int
) -> None:
    done = cli("quantize", "tiny-F16", *args)
    assert done.exit_code == code, done
    assert done.err.startswith("error: ")
    assert len(done.err.strip().splitlines()) <= 2
    assert len(registry.models()) == 1


def test_a_loose_file_is_a_parent_by_its_digest(cli: Cli, tmp_path: Path) -> None:
    import hashlib

    path = tiny_llama(tmp_path / "loose.gguf")
    data = cli("quantize", path, "Q4_0", "--json").data
    parents = data["model"]["lineage"]["parents"]
    assert parents == [[str(path), hashlib.sha256(path.read_bytes()).hexdigest()]]
    assert data["name"] == "loose:Q4_0"


def test_an_adapter_is_no_model(cli: Cli, tmp_path: Path) -> None:
    from tests.support.tiny_models import tiny_lora

    assert cli("quantize", tiny_lora(tmp_path / "a.gguf"), "Q4_0").exit_code == 7


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, -15)]
)
def test_stopped_midway_nothing_half_made_is_registered(
    cli: Cli, registry: Registry, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    path = tiny_llama(tmp_path / "larger.gguf", n_layer=16, n_embd=512, n_ff=2048)
    child = subprocess.Popen(
        [sys.executable, "-m", "localllm", "quantize", str(path), "Q2_K"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(registry.home.glob("partial/*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert registry.models() == ()
    assert cli("quantize", path, "Q2_K", "--json").exit_code == 0
    assert cli("verify", "--all").exit_code == 0
    assert not list(registry.home.glob("partial/*.part"))
