"""chat: one-shot, piped, streamed, stopped; conversations on a real pty."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.chat.session import model_sampling, open_session
from localllm.hardware.fingerprint import fingerprint
from localllm.library.defaults import LoadDefaults, keep_defaults
from localllm.placement import PlanOptions
from localllm.placement.here import look
from localllm.registry import Model, Registry
from localllm.ui import Silent
from tests.conftest import Done, arrival
from tests.support.tiny_models import tiny_llama, tiny_lora

Cli = Callable[..., Done]
GREEDY = ("--temperature", "0", "--max-tokens", "8")


def test_stdout_is_the_answer_alone(shell: Cli, tiny_model: Model) -> None:
    done = shell("chat", "tiny", "hello", *GREEDY)
    assert done.exit_code == 0, done
    again = shell("chat", "tiny", "hello", *GREEDY, "--json")
    assert done.out == again.data["text"] + "\n"
    assert "layers on CPU" in done.err


def test_the_account_adds_up(cli: Cli, tiny_model: Model) -> None:
    data = cli("chat", "tiny", "hello", *GREEDY, "--json").data
    assert (data["completion_tokens"], data["finish_reason"]) == (8, "length")
    assert data["context_tokens"] == data["prompt_tokens"] + 8
    assert data["first_token_s"] >= data["prompt_s"] > 0
    assert data["decode_tps"] == pytest.approx(7 / data["decode_s"])


def test_a_prompt_from_a_pipe(cli: Cli, tiny_model: Model) -> None:
    piped = cli("chat", "tiny", *GREEDY, "--json", stdin="hello")
    given = cli("chat", "tiny", "hello", *GREEDY, "--json")
    assert piped.data["text"] == given.data["text"]
    assert cli("chat", "tiny", stdin="  \n").exit_code == 2


def test_a_seed_makes_it_reproducible(cli: Cli, tiny_model: Model) -> None:
    texts = {
        cli("chat", "tiny", "x", "--seed", seed, "-n", "12", "--json").data["text"]
        for seed in (7, 7, 8)
    }
    assert len(texts) == 2


def test_raw_continues_the_text_without_a_template(cli: Cli, tiny_model: Model) -> None:
    raw = cli("chat", "tiny", "hello", "--raw", *GREEDY, "--json").data
    templated = cli("chat", "tiny", "hello", *GREEDY, "--json").data
    assert raw["prompt_tokens"] < templated["prompt_tokens"]


def test_a_stop_string_is_never_shown(cli: Cli, tiny_model: Model) -> None:
    text = cli("chat", "tiny", "hello", *GREEDY, "--json").data["text"]
    stop = text[3:5]
    done = cli("chat", "tiny", "hello", *GREEDY, "--stop", stop, "--json").data
    assert done["text"] == text[: text.index(stop)]
    assert done["finish_reason"] == "stop"


def test_a_full_context_is_said(cli: Cli, tiny_model: Model) -> None:
    done = cli("chat", "tiny", "hello", "--temperature", "0", "--ctx", "256", "--json")
    assert done.data["finish_reason"] == "context"
    assert done.data["truncated"] is True
    assert "context" in done.json["warnings"][-1]


def test_a_prompt_longer_than_the_context_is_refused(cli: Cli, tiny_model: Model) -> None:
    done = cli("chat", "tiny", "x" * 5000, "--ctx", "256")
    assert done.exit_code == 2
    assert "tokens" in done.err.splitlines()[1]
    assert done.out == ""


@pytest.mark.parametrize(
    ("args", "code"),
    [(("--require-gpu",), 4), (("--ctx", "999999999"), 4), (("--kv", "q9"), 2),
     (("--lora", "nothing"), 3), (("--flash-attn", "perhaps"), 2), (("--top-p", "3"), 2)],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(
    cli: Cli, tiny_model: Model, args: tuple[str, ...], code: int
) -> None:
    from localllm.engine.build import devices

    if "--require-gpu" in args and any(d.offloads for d in devices()):
        pytest.skip("this build has a GPU")
    done = cli("chat", "tiny", "hi", *args)
    assert done.exit_code == code, done
    assert done.out == ""
    assert sum(line.startswith("error: ") for line in done.err.splitlines()) == 1


def test_an_adapter_changes_the_answer(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    adapter = tiny_lora(tmp_path / "a.gguf")
    plain = cli("chat", "tiny", "hello", *GREEDY, "--json").data["text"]
    none = cli("chat", "tiny", "hello", *GREEDY, "--lora", f"{adapter}:0", "--json").data["text"]
    full = cli("chat", "tiny", "hello", *GREEDY, "--lora", f"{adapter}:8", "--json").data["text"]
    assert none == plain
    assert full != plain
    assert cli("chat", "tiny", "hi", "--lora", "tiny").exit_code == 7
    for scale in ("nan", "inf"):
        assert cli("chat", "tiny", "hi", "--lora", f"{adapter}:{scale}").exit_code == 2
    broken = cli("chat", "tiny", "hi", "--lora", f"{adapter}:1e38")
    assert broken.exit_code == 1
    assert "a scale is too large" in broken.err


def test_an_adapter_brings_the_template_it_was_tuned_with(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    """Where the model has none: else the adapter would be asked in a form it never saw."""
    metadata = {"tokenizer.chat_template": "{{ messages[0]['content'] }}"}
    adapter = tiny_lora(tmp_path / "a.gguf", metadata=metadata)
    registry.add(arrival("base", tiny_llama(tmp_path / "b.gguf", chat_template=None)))
    registry.add(arrival("tiny", tiny_llama(tmp_path / "t.gguf")))
    tokens = {
        model: cli("chat", model, "the world", *GREEDY, "--lora", adapter, "--json").data[
            "prompt_tokens"
        ]
        for model in ("base", "tiny")
    }
    said = cli("chat", "base", "the world", *GREEDY, "--raw", "--json").data["prompt_tokens"]
    assert tokens["base"] == said < tokens["tiny"]


def test_an_adapter_of_another_model_is_told(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    """The shapes fit, so llama.cpp attaches it without a word."""
    from localllm.library.lineage import lineage_metadata
    from localllm.registry import Lineage

    for number, digest in enumerate((tiny_model.digest, "1" * 64)):
        made = Lineage("finetune", (("their-model", digest),), "localllm finetune")
        adapter = tiny_lora(tmp_path / f"{number}.gguf", metadata=dict(lineage_metadata(made)))
        done = cli("chat", "tiny", "hello", *GREEDY, "--lora", adapter)
        assert done.exit_code == 0, done
        assert ("was trained on their-model" in done.err) is (digest != tiny_model.digest)


def test_a_model_brings_its_adapter(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    base, adapter = tiny_llama(tmp_path / "b.gguf"), tiny_lora(tmp_path / "a.gguf", seed=5)
    came = arrival("tuned", base, in_place=True)
    second = replace(came.files[0], path=adapter, name="a.gguf", role="adapter", sha256=None,
                     size_bytes=adapter.stat().st_size)  # fmt: skip
    registry.add(replace(came, files=(*came.files, second)))
    with_it = cli("chat", "tuned", "hello", *GREEDY, "--json").data["text"]
    loose = tiny_llama(tmp_path / "loose.gguf")  # the same bytes, not registered
    by_hand = cli("chat", loose, "hello", *GREEDY, "--lora", adapter, "--json")
    assert by_hand.exit_code == 0, by_hand
    assert with_it == by_hand.data["text"]


def test_a_model_brings_its_defaults(registry: Registry, tmp_path: Path) -> None:
    parameters = {"temperature": 0.1, "top_k": 5, "stop": ["<end>"], "num_ctx": 4096, "seed": "x"}
    path = tiny_llama(tmp_path / "m.gguf")
    model = registry.add(arrival("m", path, extras={"parameters": parameters, "system": "Be."}))
    sampling = model_sampling(model)
    assert (sampling.temperature, sampling.top_k, sampling.stop) == (0.1, 5, ("<end>",))
    assert sampling.seed is None


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_model_loads_as_bench_found_best_unless_told_otherwise(
    registry: Registry, tiny_model: Model
) -> None:
    here = fingerprint(look())
    best = LoadDefaults(
        n_threads=1, n_threads_batch=2, n_batch=64, n_ubatch=32, flash_attn="off", type_k="q8_0",
        type_v="f16", n_gpu_layers=0, n_cpu_moe=0, pp_speedup=1.1, tg_speedup=1.0, found_at=0.0,
    )  # fmt: skip
    model = keep_defaults(registry, tiny_model, here, best)
    session = open_session(model, PlanOptions(n_ctx=128), Silent())
    try:
        context = session.opened.context
        assert (context.n_threads, context.n_threads_batch) == (1, 2)
        assert (context.n_batch, context.n_ubatch, context.options.type_k) == (64, 32, "q8_0")
        assert session.where.endswith("as bench --auto found best")
    finally:
        session.close()
    plan = PlanOptions(n_ctx=128, type_k="f16")
    session = open_session(model, plan, Silent(), threads=2, said={"type_k"})
    try:
        context = session.opened.context
        assert (context.n_threads, context.options.type_k, context.n_ubatch) == (2, "f16", 32)
    finally:
        session.close()


def test_ctrl_c_ends_a_one_shot_with_130(tiny_model: Model) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "localllm", "chat", "tiny", "hello", "--ctx", "100000"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.read(1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    assert b"Traceback" not in err
    assert b"interrupted" in err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_a_conversation_on_a_terminal(tiny_model: Model) -> None:
    import pty

    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "localllm", "chat", "tiny", "--stats", "--max-tokens", "100",
         "--temperature", "0", "--ctx", "1024"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    seen = b""

    def until(pattern: bytes, timeout: float = 30) -> None:
        nonlocal seen
        deadline = time.monotonic() + timeout
        while not re.search(pattern, seen):
            assert time.monotonic() < deadline, (pattern, seen[-500:])
            try:
                seen += os.read(master, 4096)
            except OSError:
                return

    until(rb">>> ")
    os.write(master, b"hello\n")
    until(rb"tokens in \(0 cached\), 100 out")
    os.write(master, b"again\n")
    until(rb"tokens in \([1-9]\d* cached\)")  # the first turn was not computed again
    os.write(master, b"x" * 4000 + b"\n")  # more than the context holds
    until(rb"error: the prompt is \d+ tokens")
    os.write(master, b"/exit\n")
    assert child.wait(timeout=20) == 0
    os.close(master)
    assert b"Traceback" not in seen


@pytest.mark.model
def test_the_real_model_knows_the_days_of_the_week(cli: Cli, real_gguf: Path) -> None:
    done = cli("chat", real_gguf, "Monday, Tuesday, Wednesday,", "--raw", *GREEDY, "--json")
    assert done.data["text"].startswith(" Thursday, Friday, Saturday,")
