"""finetune: a model tuned on data of one's own."""

from __future__ import annotations

from localllm.finetune import options as opt
from localllm.finetune.recipe import merged, read_recipe
from localllm.finetune.request import Asked
from localllm.finetune.run import finetune
from localllm.registry import Registry
from localllm.ui import Sink


def finetune_command(
    base: opt.Base = None,
    data: opt.Data = None,
    recipe: opt.RecipeFile = None,
    save_recipe: opt.SaveRecipe = None,
    name: opt.Name = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    restart: opt.Restart = False,
    report: opt.Report = None,
    merge: opt.Merge = None,
    format: opt.Format = None,
    column: opt.Column = None,
    from_chats: opt.FromChats = None,
    chats: opt.Chats = None,
    from_votes: opt.FromVotes = None,
    bad_rows: opt.BadRows = None,
    duplicates: opt.Duplicates = None,
    limit: opt.Limit = None,
    max_length: opt.MaxLength = None,
    overlong: opt.Overlong = None,
    learn: opt.Learn = None,
    system: opt.System = None,
    thinking: opt.Thinking = None,
    chat_template: opt.ChatTemplate = None,
    held_out: opt.HeldOut = None,
    method: opt.Method = None,
    objective: opt.ObjectiveOption = None,
    rank: opt.Rank = None,
    alpha: opt.Alpha = None,
    targets: opt.Targets = None,
    dropout: opt.Dropout = None,
    adapter: opt.Adapter = None,
    any_base: opt.AnyBase = None,
    base_weights: opt.BaseWeights = None,
    beta: opt.Beta = None,
    orpo_weight: opt.OrpoWeight = None,
    epochs: opt.Epochs = None,
    steps: opt.Steps = None,
    batch_size: opt.BatchSize = None,
    lr: opt.Lr = None,
    schedule: opt.Schedule = None,
    warmup: opt.Warmup = None,
    lr_floor: opt.LrFloor = None,
    weight_decay: opt.WeightDecay = None,
    max_grad_norm: opt.MaxGradNorm = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    pack_tokens: opt.PackTokens = None,
    checkpointing: opt.Checkpointing = None,
    precision: opt.Precision = None,
    threads: opt.Threads = None,
    shard: opt.Shard = None,
    eval_every: opt.EvalEvery = None,
    patience: opt.Patience = None,
    keep: opt.Keep = None,
    save_every: opt.SaveEvery = None,
    sample_every: opt.SampleEvery = None,
    samples: opt.Samples = None,
    sample_tokens: opt.SampleTokens = None,
    sample_prompt: opt.SamplePrompt = None,
    tensorboard: opt.TensorBoard = None,
    wandb: opt.WandB = None,
    *,
    sink: Sink,
) -> None:
    """Tune a model on your own data: before and after judged by llama.cpp."""
    beside = ("recipe", "save_recipe", "dry_run", "resume", "restart", "report", "sink", "beside")
    given = {key: value for key, value in locals().items() if key not in beside}
    wanted = merged(read_recipe(recipe) if recipe is not None else {}, given)
    asked = Asked(
        recipe=wanted, dry_run=dry_run, resume=resume, restart=restart, report=report,
        save_recipe=save_recipe,
    )  # fmt: skip
    finetune(asked, Registry.open(), sink)
