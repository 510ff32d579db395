"""How fast, how large and how true a GGUF becomes a model of transformers.

    python benchmarks/finetune_load.py MODEL.gguf [--runs 1] [--tokens 40] [--ways WAY...]
        [--json OUT]

Loads MODEL three ways, each in a process of its own, one after the other: as numbers (`dense`),
in the file's own bytes (`quantized`), and by transformers' `gguf_file=`. Times leave out the
imports. Peak memory is the process's largest resident set, mapped pages of the file included;
`training step` is a forward and backward pass with LoRA of rank 8 on q and v. The divergence is
of the last 16 tokens' distributions from llama.cpp's on the same file, and of an F16 copy from
llama.cpp's on that copy (llama.cpp multiplies quantized weights with activations in 8 bits,
which torch does not). What the issue asks for: at least five times as fast, 1e-4 on F16.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WAYS = ("dense", "quantized", "transformers")
TEXT = (
    "The lighthouse stood at the end of a long spit of sand. Every evening, an hour before "
    "sunset, the keeper climbed the spiral stairs with a can of oil and a cloth. "
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=(*WAYS, "f16"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.model, given.tokens, given.out)
        return
    report = measure(given.model, given.runs, given.tokens, given.ways)
    show(report)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


def measure(path: Path, runs: int, n_tokens: int, ways: Sequence[str]) -> dict[str, Any]:
    """The ways take turns, so that a busy machine is busy for all of them."""
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for way in ways:
                results[way].append(in_a_process(way, path, n_tokens, Path(folder)))
        half = in_a_process("f16", path, n_tokens, Path(folder))
    best = {way: min(found, key=lambda one: float(one["load_s"])) for way, found in results.items()}
    return {"file_bytes": path.stat().st_size, "ways": best, "f16": half}


def in_a_process(way: str, path: Path, n_tokens: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(path), "--child", way, "--tokens", str(n_tokens)]
    done = subprocess.run(
        [*command, "--out", str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(way: str, path: Path, n_tokens: int, folder: Path) -> None:
    import torch

    if way == "f16":
        print(json.dumps(half_precision(path, n_tokens, folder)))
        return
    before = peak_bytes()
    if way == "transformers":
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        start = time.perf_counter()
        module = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    else:
        from localllm.finetune.model import build, load_causal

        assert build is not None  # imported before the clock starts
        start = time.perf_counter()
        module = load_causal(path, frozen=way).module  # type: ignore[arg-type]
    load_s, loaded = time.perf_counter() - start, peak_bytes()
    ids = tokens(path, n_tokens)
    step_s = training_step(module, ids)
    stepped = peak_bytes()  # before llama.cpp loads the model too
    kld = divergence(path, module, ids)  # the LoRA does nothing yet
    print(
        json.dumps(
            {"load_s": load_s, "before_bytes": before, "loaded_bytes": loaded, "kld": kld,
             "step_s": step_s, "step_bytes": stepped}
        )
    )  # fmt: skip


def half_precision(path: Path, n_tokens: int, folder: Path) -> dict[str, Any]:
    from localllm.finetune.model import load_causal, save_gguf

    copy = folder / "f16.gguf"
    start = time.perf_counter()
    save_gguf(load_causal(path, frozen="quantized"), copy, type="F16")
    save_s = time.perf_counter() - start
    module = load_causal(copy).module
    found = divergence(copy, module, tokens(path, n_tokens))
    copy.unlink()
    return {"save_s": save_s, "kld": found}


def tokens(path: Path, n: int) -> list[int]:
    from localllm.engine.model import Model
    from localllm.engine.options import LoadOptions

    with Model.load(path, LoadOptions(vocab_only=True)) as model:
        return model.tokenizer.encode(TEXT * (n // 20 + 1))[:n]


def divergence(path: Path, module: Any, ids: list[int]) -> float:
    """Mean KL of the last 16 rows from llama.cpp's, with its cache in full precision, in nats."""
    import numpy as np
    import torch

    from localllm.engine.batching import TokenBatch
    from localllm.engine.context import Context
    from localllm.engine.model import Model
    from localllm.engine.options import ContextOptions

    rows = range(len(ids) - 16, len(ids))
    with torch.no_grad():
        kept = torch.tensor(list(rows))
        ours = module(input_ids=torch.tensor([ids]), logits_to_keep=kept, use_cache=False).logits[0]
    options = ContextOptions(n_ctx=len(ids) + 8, type_k="f32", type_v="f32", flash_attn="off")
    n = len(ids)
    with Model.load(path) as model, Context(model, options) as context, TokenBatch(n) as batch:
        for position, token in enumerate(ids):
            batch.add(token, position, 0, output=position in rows)
        context.decode(batch.native)
        theirs = np.stack([context.logits(i) for i in rows])
    p = torch.log_softmax(torch.from_numpy(theirs).double(), -1)
    q = torch.log_softmax(ours.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def training_step(module: Any, ids: list[int]) -> float:
    """Seconds of one forward and backward pass, LoRA of rank 8 on q and v."""
    import torch
    from torch import nn

    class Lora(nn.Module):
        def __init__(self, base: Any) -> None:
            super().__init__()
            self.base = base
            self.a = nn.Parameter(torch.randn(8, base.in_features) * 0.01)
            self.b = nn.Parameter(torch.zeros(base.out_features, 8))

        def forward(self, x: Any) -> Any:
            return self.base(x) + (x @ self.a.t()) @ self.b.t()

    for layer in module.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, Lora(getattr(layer.self_attn, name)))
    start = time.perf_counter()
    batch = torch.tensor([ids])
    hidden = module.model(input_ids=batch, use_cache=False).last_hidden_state
    logits = module.lm_head(hidden[:, -9:-1])
    nn.functional.cross_entropy(logits[0], batch[0, -8:]).backward()
    return time.perf_counter() - start


def peak_bytes() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def show(report: dict[str, Any]) -> None:
    mb = 1 / 1e6
    print(f"file {report['file_bytes'] * mb:.0f} MB")
    for way, one in report["ways"].items():
        print(
            f"{way:13} load {one['load_s']:6.2f} s  peak {one['loaded_bytes'] * mb:5.0f} MB "
            f"({one['before_bytes'] * mb:.0f} MB before)  KL {one['kld']:.1e}  "
            f"step {one['step_s']:.1f} s, at most {one['step_bytes'] * mb:.0f} MB"
        )
    theirs = report["ways"].get("transformers")
    for way, ours in report["ways"].items():
        if theirs is None or way == "transformers":
            continue
        print(
            f"{way}: {theirs['load_s'] / ours['load_s']:.1f} times as fast as gguf_file=, "
            f"{ours['loaded_bytes'] / theirs['loaded_bytes']:.2f} of its memory"
        )
    half = report["f16"]
    print(f"F16 copy: written in {half['save_s']:.1f} s, KL {half['kld']:.1e}")


if __name__ == "__main__":
    main()
