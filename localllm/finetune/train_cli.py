"""train: a small model from nothing but text."""

from __future__ import annotations

from localllm.finetune import options as opt
from localllm.finetune.recipe import read_recipe
from localllm.finetune.scratch import options as own
from localllm.finetune.scratch.recipe import TrainRecipe, merged
from localllm.finetune.scratch.run import Asked, train
from localllm.registry import Registry
from localllm.ui import Sink


def train_command(
    name: own.Name = None,
    data: opt.Data = None,
    recipe: opt.RecipeFile = None,
    save_recipe: opt.SaveRecipe = None,
    dry_run: own.DryRun = False,
    resume: opt.Resume = False,
    restart: opt.Restart = False,
    report: opt.Report = None,
    format: own.Format = None,
    column: opt.Column = None,
    bad_rows: opt.BadRows = None,
    duplicates: own.Duplicates = None,
    limit: opt.Limit = None,
    held_out: own.HeldOut = None,
    learn: own.Learn = None,
    vocab_size: own.VocabSize = None,
    context: own.Context = None,
    width: own.Width = None,
    layers: own.Layers = None,
    heads: own.Heads = None,
    kv_heads: own.KvHeads = None,
    ff: own.Ff = None,
    type: own.Type = None,
    budget: own.Budget = None,
    epochs: own.Epochs = None,
    steps: own.Steps = None,
    batch_tokens: own.BatchTokens = None,
    optimizer: own.Optimizer = None,
    lr: opt.Lr = None,
    schedule: opt.Schedule = None,
    warmup: opt.Warmup = None,
    lr_floor: opt.LrFloor = None,
    weight_decay: opt.WeightDecay = None,
    dropout: own.Dropout = None,
    max_grad_norm: opt.MaxGradNorm = None,
    seed: opt.Seed = None,
    pack_tokens: opt.PackTokens = None,
    precision: opt.Precision = None,
    threads: opt.Threads = None,
    eval_every: opt.EvalEvery = None,
    patience: opt.Patience = None,
    keep: opt.Keep = None,
    save_every: opt.SaveEvery = None,
    samples: own.Samples = None,
    sample_tokens: opt.SampleTokens = None,
    sample_prompt: own.SamplePrompt = None,
    tensorboard: opt.TensorBoard = None,
    wandb: opt.WandB = None,
    *,
    sink: Sink,
) -> None:
    """Train a small model of your own from nothing but text, its vocabulary included."""
    beside = ("recipe", "save_recipe", "dry_run", "resume", "restart", "report", "sink", "beside")
    given = {key: value for key, value in locals().items() if key not in beside}
    file = read_recipe(recipe, TrainRecipe) if recipe is not None else {}
    asked = Asked(
        recipe=merged(file, given), dry_run=dry_run, resume=resume, restart=restart,
        report=report, save_recipe=save_recipe,
    )  # fmt: skip
    train(asked, Registry.open(), sink)
