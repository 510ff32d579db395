"""Speed and memory of tuning against transformers.Trainer with peft, in one run.

    python benchmarks/finetune_speed.py MODEL.gguf [--data FILE] [--steps 4] [--rounds 2]
        [--rows 4] [--tokens 256] [--sides SIDE...] [--threads N] [--json]

The peer is what people write down: `get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))` with
nothing else said (rank 8, alpha 8, the projections that peft picks for the family), `Trainer` with
a collator that pads and masks prompts by -100, all in float32. Ours learns the same
numbers of the same layers from the same rows in the same order at the same rate, its adapters
begin as the peer's do, by the loop that `localllm finetune` runs:

    ours        as the command decides: the base in its file's bytes, the precision by trial
    ours f32    the same in float32: what the peer computes, so the losses agree
    dense f32   and with the base made into numbers once, as the peer has it
    peer bf16   the peer with `bf16=True`

Each side runs in a process of its own, in turn, round after round, so that a noisy machine is
noisy for all; ratios are of the medians. The peer gets the model by our loader (its own takes a
minute). A rate is of the rows' own tokens, padding not counted, over the steps after the first;
memory is the highest resident size of the process from before the model is loaded. Without
`--data` the rows are docstrings of Python's library, asked for by the function's code. How much
is won depends on how many tokens count, which is said. Needs peft and accelerate. The project
wants at least 2 times the tokens a second and at most 0.55 of the memory, to the same loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SIDES = ("peer", "ours", "ours f32", "dense f32", "peer bf16")
RATE = 5e-4


# --- what is learned ------------------------------------------------------------------------


def docstrings(path: Path) -> None:
    """Rows of a function's code and its docstring, from Python's own library."""
    import ast
    import sysconfig

    with path.open("w", encoding="utf-8") as file:
        for source in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
            text = source.read_text("utf-8", errors="replace")
            for one in ast.walk(ast.parse(text)):
                if not isinstance(one, ast.FunctionDef) or not (said := ast.get_docstring(one)):
                    continue
                one.body[0] = ast.Expr(ast.Constant(...))
                row = {"prompt": f"Say what this does.\n\n{ast.unparse(one)}", "completion": said}
                file.write(json.dumps(row) + "\n")


def make_rows(args: argparse.Namespace, path: Path) -> None:
    """The rows of all steps as tokens, with the places that count, in the order of the steps."""
    import random

    from localllm.finetune.data import DataSpec, Dialect, EncodeOptions, open_data, prepare

    data = args.data
    if data is None:
        data = path.with_suffix(".jsonl")
        docstrings(data)
    dataset = open_data(DataSpec((str(data),)))
    with Dialect.open(args.model) as dialect:
        examples = prepare(dataset, dialect, EncodeOptions(max_length=args.tokens)).examples
    whole = [one for one in examples if args.tokens // 4 <= len(one.ids) < args.tokens]
    wanted = args.rows * args.steps
    if len(whole) < wanted:
        sys.exit(f"only {len(whole)} rows of {args.tokens // 4} to {args.tokens} tokens")
    chosen = random.Random(0).sample(whole, wanted)
    path.write_text(json.dumps([[one.ids.tolist(), one.mask.tolist()] for one in chosen]))


def rows_of(args: argparse.Namespace) -> list[Any]:
    import numpy as np

    found = json.loads(args.rows_file.read_text())
    return [SimpleNamespace(ids=np.array(i, np.int32), mask=np.array(m, bool)) for i, m in found]


# --- the sides ------------------------------------------------------------------------------


def begin(module: Any, targets: Sequence[str], rank: int) -> dict[str, Any]:
    """The adapters' first numbers on each layer, [rank, in], as ours draws them."""
    import torch

    from localllm.finetune.training.adapters import target_names

    draw, found = torch.Generator().manual_seed(0), {}
    for name in target_names(module, targets):
        n_in = module.get_submodule(name).in_features
        found[name] = torch.empty(rank, n_in).uniform_(-(n_in**-0.5), n_in**-0.5, generator=draw)
    return found


def ours(args: argparse.Namespace, *, dense: bool, precision: str) -> dict[str, Any]:
    from localllm.finetune.training.prepare import prepare_torch

    prepare_torch(args.threads)
    import torch

    from localllm.finetune.model import load_causal
    from localllm.finetune.plan import PACK_TOKENS
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.training.adapters import AdapterOptions, attach
    from localllm.finetune.training.batches import Batches, Pack, pack
    from localllm.finetune.training.forward import scorer
    from localllm.finetune.training.memory import PeakMemory
    from localllm.finetune.training.objectives import Likelihood
    from localllm.finetune.training.precision import try_precisions
    from localllm.finetune.training.records import Unwatched
    from localllm.finetune.training.task import Learned, Task
    from localllm.finetune.training.trainer import Trainer

    class InOrder(Batches):
        """Steps in the order of the rows, as the peer takes them."""

        def step(self, number: int) -> list[Pack]:
            first = number * self.batch_size
            return [pack(self.items, one) for one in self.groups(range(first, first + args.rows))]

    recipe = Recipe(rank=args.rank, alpha=args.alpha, targets=tuple(args.targets), lr=RATE,
                    schedule="constant", warmup=0.0, batch_size=args.rows, steps=args.steps,
                    eval_every=10**9)  # fmt: skip
    with PeakMemory() as memory:
        loaded = load_causal(args.model, frozen="dense" if dense else "quantized")
        if precision == "auto":
            sizes = loaded.sizes
            precision = try_precisions(sizes.n_embd, sizes.n_ff).best
        options = AdapterOptions(recipe.rank, recipe.alpha, recipe.targets)
        adapters = attach(loaded.module, options, 0)
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        named = {name: p for name, p in loaded.module.named_parameters() if p.requires_grad}
        train = [[row] for row in rows_of(args)]
        task = Task(loaded.module, scorer(loaded.module, kind), Learned(adapters, named),
                    Likelihood(), train, [], PACK_TOKENS, "")  # fmt: skip
        place = SimpleNamespace(checkpoint=args.scratch / "state", best=args.scratch / "best")
        trainer = Trainer(task, recipe, place, Unwatched())
        trainer.batches = InOrder(train, args.rows, PACK_TOKENS, 0)
        steps = trainer.run(resume=False).history.steps
        (args.scratch / "state").unlink()
    return figures([one.seconds for one in steps], [one.loss for one in steps], memory, precision)


def peer(args: argparse.Namespace, *, bf16: bool) -> dict[str, Any]:
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

    class Ordered(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    with PeakMemory() as memory:
        module = load_causal(args.model).module
        first = begin(module, args.targets, args.rank)
        tuned: Any = get_peft_model(module, LoraConfig(task_type="CAUSAL_LM"))
        layers = dict(tuned.base_model.model.named_modules())
        adapted = {name for name, one in layers.items() if hasattr(one, "lora_A")}
        if adapted != set(first):
            sys.exit(f"peft adapts other layers: {sorted(adapted ^ set(first))[:4]}")
        for name, start in first.items():
            layers[name].lora_A.default.weight.data.copy_(start)
        settings = TrainingArguments(
            output_dir=str(args.scratch), per_device_train_batch_size=args.rows, bf16=bf16,
            learning_rate=RATE, lr_scheduler_type="constant", max_steps=args.steps,
            logging_steps=1, remove_unused_columns=False, report_to="none", save_strategy="no",
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Ordered(
            model=tuned, args=settings, train_dataset=rows_of(args), data_collator=padded,
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    return figures(times, losses, memory, "bf16" if bf16 else "f32")


def padded(rows: list[Any]) -> dict[str, Any]:
    """A batch as the peer wants it: padded on the right, what does not count masked by -100."""
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels, seen = torch.full_like(ids, -100), torch.zeros_like(ids)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.from_numpy(row.ids.astype("int64"))
        labels[i, :n] = torch.where(torch.from_numpy(row.mask), ids[i, :n], -100)
        seen[i, :n] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": seen}


def figures(times: list[float], losses: list[float], memory: Any, precision: str) -> dict[str, Any]:
    """Of a process. Its times are turned into rates by the parent, who knows the rows."""
    return {"seconds": times, "losses": losses, "peak_bytes": memory.peak_bytes,
            "precision": precision}  # fmt: skip


# --- in turn --------------------------------------------------------------------------------


def child(args: argparse.Namespace) -> None:
    side = args.side
    if side.startswith("peer"):
        found = peer(args, bf16=side.endswith("bf16"))
    else:
        found = ours(args, dense=side.startswith("dense"),
                     precision="f32" if side.endswith("f32") else "auto")  # fmt: skip
    print("figures: " + json.dumps(found))


def measured(args: argparse.Namespace, side: str, more: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--side", side, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((one for one in done.stdout.splitlines() if one.startswith("figures: ")), None)
    if line is None:
        sys.exit(f"{side} failed:\n{done.stdout[-500:]}{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(line.removeprefix("figures: "))
    return found


def peft_defaults(path: Path) -> list[str]:
    """Rank, alpha and layers of a `LoraConfig()` for the model, as options for the children."""
    from peft import LoraConfig
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS

    from localllm.finetune.model import check_source
    from localllm.formats.hf import family_of_arch

    config = LoraConfig(task_type="CAUSAL_LM")
    arch = check_source(path)
    targets = TARGETS[family_of_arch(arch, arch).model_type]
    return ["--rank", str(config.r), "--alpha", str(config.lora_alpha), "--targets", *targets]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="rows are shorter than this")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES[:4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    for name, kind in (("side", str), ("rows-file", Path), ("scratch", Path), ("rank", int),
                       ("alpha", float)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--targets", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = options()
    if args.side:
        child(args)
        return
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
    with tempfile.TemporaryDirectory() as folder:
        args.rows_file = Path(folder) / "rows"
        make_rows(args, args.rows_file)
        rows = rows_of(args)
        more = ["--rows-file", str(args.rows_file), "--scratch", folder, *peft_defaults(args.model)]
        for _ in range(args.rounds):
            for side in args.sides:
                found[side].append(measured(args, side, more))
    show(args, rows, found)


def show(args: argparse.Namespace, rows: list[Any], found: dict[str, list[dict[str, Any]]]) -> None:
    after = sum(len(row.ids) for row in rows[args.rows :])  # the first step prepares kernels
    counted = sum(int(row.mask.sum()) for row in rows) / sum(len(row.ids) for row in rows)
    table = {
        side: {
            "tokens_per_s": statistics.median(after / sum(one["seconds"][1:]) for one in runs),
            "peak_bytes": statistics.median(one["peak_bytes"] for one in runs),
            "precision": runs[0]["precision"],
            "losses": runs[0]["losses"],
        }
        for side, runs in found.items()
    }
    if args.json:
        print(json.dumps({"counted": counted, "rows": len(rows), "sides": table}))
        return
    print(f"{len(rows)} rows in {args.steps} steps, {counted:.0%} of their tokens count")
    print(f"{'':12}{'tokens/s':>9}{'ratio':>7}{'MiB':>7}{'ratio':>7}  losses")
    first = table[args.sides[0]]
    for side, one in table.items():
        ratio, share = (one[key] / first[key] for key in ("tokens_per_s", "peak_bytes"))
        losses = " ".join(f"{loss:.4f}" for loss in one["losses"])
        print(f"{side:12}{one['tokens_per_s']:9.1f}{ratio:7.2f}{one['peak_bytes'] / 2**20:7.0f}"
              f"{share:7.2f}  {losses} ({one['precision']})")  # fmt: skip


if __name__ == "__main__":
    main()
