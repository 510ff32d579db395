"""quantize: a model made smaller."""

from __future__ import annotations

from localllm.errors import Interrupted
from localllm.library import ModelName
from localllm.quantize import options as opt
from localllm.quantize.measuring import Asked, show_ladder, show_measured
from localllm.quantize.requests import Given
from localllm.quantize.run import run_all
from localllm.quantize.size.request import check_beside, size_asked
from localllm.quantize.views import several
from localllm.registry import Registry
from localllm.ui import Sink


def quantize_command(
    model: ModelName,
    types: opt.Types = None,
    tensor_type: opt.TensorType = None,
    tensor_type_file: opt.TensorTypeFile = None,
    output_tensor_type: opt.OutputTensorType = None,
    token_embedding_type: opt.TokenEmbeddingType = None,
    leave_output_tensor: opt.LeaveOutputTensor = False,
    pure: opt.Pure = False,
    plan: opt.PlanFile = None,
    save_plan: opt.SavePlan = None,
    imatrix: opt.Imatrix = None,
    include_weights: opt.IncludeWeights = None,
    exclude_weights: opt.ExcludeWeights = None,
    name: opt.Name = None,
    keep_split: opt.KeepSplit = False,
    prune_layers: opt.PruneLayers = None,
    override_kv: opt.OverrideKv = None,
    allow_requantize: opt.AllowRequantize = False,
    threads: opt.Threads = 0,
    max_memory: opt.MaxMemory = None,
    dry_run: opt.DryRun = False,
    measure: opt.Measure = False,
    ladder: opt.Ladder = False,
    measure_text: opt.MeasureText = None,
    measure_chunks: opt.MeasureChunks = None,
    again: opt.Again = False,
    chart: opt.Chart = None,
    report: opt.Report = None,
    keep: opt.Keep = "all",
    require_fit: opt.RequireFit = False,
    n_ctx: opt.Ctx = None,
    size: opt.Size = None,
    bpw: opt.Bpw = None,
    fit: opt.FitHere = False,
    budget: opt.Budget = None,
    quick: opt.Quick = False,
    text: opt.SearchText = None,
    *,
    sink: Sink,
) -> None:
    """Make a model smaller."""
    registry = Registry.open()
    given = Given(
        types=tuple(types or ()),
        tensor_types=tuple(tensor_type or ()),
        tensor_type_files=tuple(tensor_type_file or ()),
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        plan=plan,
        imatrix=imatrix,
        include_weights=tuple(include_weights or ()),
        exclude_weights=tuple(exclude_weights or ()),
        name=name,
        keep_split=keep_split,
        prune_layers=prune_layers,
        override_kv=tuple(override_kv or ()),
        allow_requantize=allow_requantize,
        threads=threads,
        max_memory_mib=max_memory,
    )
    measured = Asked(
        measure=measure, ladder=ladder, texts=tuple(measure_text or ()), chunks=measure_chunks,
        again=again, chart=chart, report=report, keep=keep, require_fit=require_fit, n_ctx=n_ctx,
    )  # fmt: skip
    searches = fit or size is not None or bpw is not None
    measured.check(dry_run=dry_run, save_plan=save_plan, fits=fit, searches=searches)
    asked = size_asked(size, bpw, fit, n_ctx if not ladder else None, budget, quick, text or ())
    if asked is not None:
        from localllm.quantize.size.views import show_best  # half of all modules of this command

        check_beside(given, ladder=ladder)
        return show_best(
            model, given, asked, registry, sink,
            dry_run=dry_run, save_plan=save_plan, again=again, measuring=measured.options,
        )  # fmt: skip
    if ladder:
        return show_ladder(model, given, measured, registry, sink, dry_run=dry_run)
    if measure:
        return show_measured(model, given, measured, registry, sink, save_plan=save_plan)
    try:
        done = run_all(model, given, registry, sink, dry_run=dry_run, save_plan=save_plan)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was finished is kept", "run it again") from None
    sink.show(done[0] if len(done) == 1 else {"outputs": done}, lambda _: several(done, dry_run))
    return None
