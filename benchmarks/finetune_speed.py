"""Speed and memory of tuning against transformers.Trainer with peft, in one run.

    python benchmarks/finetune_speed.py MODEL.gguf [--steps 4] [--rounds 2] [--rows 4]
        [--tokens 256] [--counted 0.25] [--threads N] [--json]

Both tune the same model on the same rows with LoRA of the same rank on q, k, v and o, loss on the
completion alone, in float32, AdamW at the same rate. The peer is what people write down: the
model dense in float32, `get_peft_model`, `Trainer` with its defaults, a collator that pads and
masks prompts with -100. It is given the model by our loader, since its own takes a minute. Ours is
what `localllm finetune` runs: the base in its file's bytes (`ours`), and dense (`ours dense`).

Each side runs in a process of its own, in turn, round after round, so that a noisy machine is
noisy for all; ratios are of the medians. A rate is of the steps after the first, memory the
highest resident size of the process from loading on. Rows have lengths between half of `--tokens`
and all of it, as data has; `--same-length` gives the peer's best case, nothing to pad. Needs peft
and accelerate. The project wants at least 2 times the tokens a second and at most 0.55 of
the memory, to the same loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDES = ("peer", "ours", "ours dense")
RANK, RATE = 8, 1e-4
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Row:
    """Token ids, and which count."""

    ids: Any
    mask: Any


def rows(args: argparse.Namespace, n_vocab: int) -> list[Row]:
    """The same rows for every side: as many as all steps take."""
    import numpy as np

    draw = np.random.default_rng(0)
    found = []
    for _ in range(args.rows * args.steps):
        low = args.tokens if args.same_length else args.tokens // 2
        length = int(draw.integers(low, args.tokens + 1))
        mask = np.arange(length) >= round((1 - args.counted) * length)
        found.append(Row(draw.integers(0, min(n_vocab, 50_000), length).astype(np.int32), mask))
    return found


def ours(args: argparse.Namespace, *, quantized: bool) -> dict[str, Any]:
    from localllm.finetune.training.prepare import prepare_torch

    prepare_torch(args.threads)
    import torch

    from localllm.finetune.model import load_causal
    from localllm.finetune.training.adapters import AdapterOptions, attach
    from localllm.finetune.training.batches import Batches
    from localllm.finetune.training.forward import scorer
    from localllm.finetune.training.memory import PeakMemory

    with PeakMemory() as memory:
        loaded = load_causal(args.model, frozen="quantized" if quantized else "dense")
        options = AdapterOptions(rank=RANK, alpha=2.0 * RANK, targets=TARGETS)
        adapters = attach(loaded.module, options, 0)
        score = scorer(loaded.module)
        loaded.module.train()
        data = [[row] for row in rows(args, loaded.module.config.vocab_size)]
        optimizer = torch.optim.AdamW(adapters.parameters(), lr=RATE)
        times, losses = [], []
        for step in range(args.steps):
            began = time.perf_counter()
            part = data[step * args.rows : (step + 1) * args.rows]
            packs = Batches(part, args.rows, args.tokens * args.rows, 0).step(0)
            count = sum(pack.n_targets for pack in packs)
            total = 0.0
            for pack in packs:
                loss = score.losses(pack).sum() / count
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - began)
            losses.append(total)
        return _figures(args, [len(row[0].ids) for row in data], times, losses, memory.peak_bytes)


def peer(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(args.threads)
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from localllm.finetune.model import load_causal
    from localllm.finetune.training.memory import PeakMemory

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.began)

    def collate(batch: list[Row]) -> dict[str, Any]:
        longest = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        labels, seen = torch.full_like(ids, -100), torch.zeros_like(ids)
        for i, row in enumerate(batch):
            n = len(row.ids)
            ids[i, :n] = torch.from_numpy(row.ids.astype("int64"))
            labels[i, :n] = torch.where(torch.from_numpy(row.mask), ids[i, :n], -100)
            seen[i, :n] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": seen}

    with PeakMemory() as memory:
        module = load_causal(args.model).module
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS),
                            task_type="CAUSAL_LM")  # fmt: skip
        tuned = get_peft_model(module, config)
        data = rows(args, module.config.vocab_size)

        class InOrder(Trainer):
            def _get_train_sampler(self, *_: Any) -> Any:
                return torch.utils.data.SequentialSampler(data)

        settings = TrainingArguments(
            output_dir=args.scratch, per_device_train_batch_size=args.rows, learning_rate=RATE,
            lr_scheduler_type="constant", num_train_epochs=1, logging_steps=1, report_to=[],
            save_strategy="no", remove_unused_columns=False, use_cpu=True, disable_tqdm=True,
            seed=0,
        )  # fmt: skip
        trainer = InOrder(model=tuned, args=settings, train_dataset=data, data_collator=collate,
                          callbacks=[Clock()])  # fmt: skip
        trainer.train()
        losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
        return _figures(args, [len(row.ids) for row in data], times, losses, memory.peak_bytes)


def _figures(
    args: argparse.Namespace, lengths: list[int], times: list[float], losses: list[float],
    peak_bytes: int,
) -> dict[str, Any]:  # fmt: skip
    after = lengths[args.rows :]  # the first step prepares kernels
    return {"tokens_per_s": sum(after) / sum(times[1:]), "losses": losses, "peak_bytes": peak_bytes}


def child(args: argparse.Namespace) -> None:
    side = {"peer": lambda: peer(args), "ours": lambda: ours(args, quantized=True),
            "ours dense": lambda: ours(args, quantized=False)}[args.side]  # fmt: skip
    print("figures: " + json.dumps(side()))


def measured(args: argparse.Namespace, side: str, scratch: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--side", side,
               "--scratch", scratch]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((one for one in done.stdout.splitlines() if one.startswith("figures: ")), None)
    if line is None:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(line.removeprefix("figures: "))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--counted", type=float, default=0.25)
    parser.add_argument("--same-length", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        child(args)
        return
    import tempfile

    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(args.rounds):
            for side in SIDES:
                found[side].append(measured(args, side, scratch))
    speed = {s: statistics.median(r["tokens_per_s"] for r in found[s]) for s in SIDES}
    memory = {s: statistics.median(r["peak_bytes"] for r in found[s]) for s in SIDES}
    losses = {s: found[s][0]["losses"] for s in SIDES}
    if args.json:
        print(json.dumps({"tokens_per_s": speed, "peak_bytes": memory, "losses": losses}))
        return
    print(f"{'':12}{'tokens/s':>10}{'ratio':>8}{'memory MiB':>12}{'ratio':>8}  losses")
    for side in SIDES:
        ratio, share = speed[side] / speed["peer"], memory[side] / memory["peer"]
        shown = " ".join(f"{loss:.4f}" for loss in losses[side])
        mib = memory[side] / 2**20
        print(f"{side:12}{speed[side]:10.1f}{ratio:8.2f}{mib:12.0f}{share:8.2f}  {shown}")


if __name__ == "__main__":
    main()
