"""The options of `localllm bench`, llama-bench's by its names, and what they make together."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.bench import grid
from localllm.bench.grid import Axes
from localllm.errors import UsageProblem
from localllm.library.bench.largest import FIT, counts_up_to

_MOST_CLIENTS = 4096
_TESTS, _SETUP, _METHOD, _SHOWN = "Tests", "Setups", "Method", "Results"

Values = list[str] | None


def _sweep(flag: str, short: str, metavar: str, text: str, panel: str) -> typer.models.OptionInfo:
    names = [name for name in (flag, short) if name]
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel)  # type: ignore[no-any-return]


NPrompt = Annotated[
    Values,
    _sweep("--n-prompt", "-p", "N,...", "Tokens of prompt; 0 for none; default 512.", _TESTS),
]
NGen = Annotated[
    Values, _sweep("--n-gen", "-n", "N,...", "Tokens to generate; 0 for none; default 128.", _TESTS)
]
Pg = Annotated[
    Values, _sweep("", "-pg", "PP,TG", "A prompt, then generation, timed as one.", _TESTS)
]
NDepth = Annotated[
    Values,
    _sweep("--n-depth", "-d", "N,...", "Tokens in the cache before a test; default 0.", _TESTS),
]
NBatch = Annotated[
    Values, _sweep("--batch-size", "-b", "N,...", "Logical batch size; default 2048.", _SETUP)
]
NUbatch = Annotated[
    Values,
    _sweep(
        "--ubatch-size",
        "-ub",
        "N,...|fit",
        "Physical batch size; default 512; fit: the largest up to -b beside all layers that fit.",
        _SETUP,
    ),
]
Threads = Annotated[
    Values, _sweep("--threads", "-t", "N,...", "Processor threads; default physical cores.", _SETUP)
]
GpuLayers = Annotated[
    Values,
    _sweep(
        "--n-gpu-layers",
        "-ngl",
        "N,...",
        "Layers to offload, -1 all; default all that fits.",
        _SETUP,
    ),
]
CpuMoe = Annotated[
    Values,
    _sweep(
        "--n-cpu-moe", "-ncmoe", "N,...", "Keep experts of N layers on the CPU; default 0.", _SETUP
    ),
]
FlashAttn = Annotated[
    Values, _sweep("--flash-attn", "-fa", "auto|on|off", "Flash attention; default auto.", _SETUP)
]
TypeK = Annotated[
    Values,
    _sweep("--cache-type-k", "-ctk", "TYPE,...", "Type of the K cache; default f16.", _SETUP),
]
TypeV = Annotated[
    Values,
    _sweep("--cache-type-v", "-ctv", "TYPE,...", "Type of the V cache; default f16.", _SETUP),
]
Kv = Annotated[
    str | None, _sweep("--kv", "", "TYPE", "Both caches' type, or K,V types of one setup.", _SETUP)
]
SplitMode = Annotated[
    Values,
    _sweep("--split-mode", "-sm", "layer|none|...", "How GPUs share: also row, tensor.", _SETUP),
]
MainGpu = Annotated[
    Values, _sweep("--main-gpu", "-mg", "I,...", "The GPU of split mode none; default 0.", _SETUP)
]
TensorSplit = Annotated[
    Values,
    _sweep("--tensor-split", "-ts", "A/B,...", "Shares of the GPUs; default by the plan.", _SETUP),
]
Mmap = Annotated[Values, _sweep("--mmap", "-mmp", "0|1", "Map the file; default 1.", _SETUP)]
NoKvOffload = Annotated[
    Values,
    _sweep("--no-kv-offload", "-nkvo", "0|1", "Keep the cache off the GPU; default 0.", _SETUP),
]

Repetitions = Annotated[
    int, typer.Option("--repetitions", "-r", min=1, help="Samples a row.", rich_help_panel=_METHOD)
]
WarmUp = Annotated[
    bool,
    typer.Option("--warmup/--no-warmup", help="An untimed run first.", rich_help_panel=_METHOD),
]
Delay = Annotated[
    float,
    typer.Option(
        "--delay", metavar="SECONDS", min=0, help="Wait before each row.", rich_help_panel=_METHOD
    ),
]
Priority = Annotated[
    int,
    typer.Option(
        "--prio", min=-1, max=3, help="-1 low, 0 normal ... 3 realtime.", rich_help_panel=_METHOD
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.001, rich_help_panel=_METHOD,
        help="Give a row up after this long, loading included.",
    ),
]  # fmt: skip
UntilStable = Annotated[
    str | None,
    typer.Option(
        "--until-stable", metavar="SHARE", rich_help_panel=_METHOD,
        help="Go on until the mean is known to ± this share: 2%.",
    ),
]  # fmt: skip
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", metavar="SECONDS", min=0.001, rich_help_panel=_METHOD,
        help="... or a row took this long [60]; with --auto, the whole search [300].",
    ),
]  # fmt: skip
Auto = Annotated[
    bool | None,
    typer.Option(
        "--auto/--no-auto", rich_help_panel=_METHOD,
        help="Search the fastest settings and keep them for chat; or forget them.",
    ),
]  # fmt: skip
Isolate = Annotated[
    bool,
    typer.Option(
        "--isolate/--no-isolate", rich_help_panel=_METHOD,
        help="Measure in a process of its own, which may crash.",
    ),
]  # fmt: skip
Load = Annotated[
    bool,
    typer.Option("--load", help="Also load times, cold and warm.", rich_help_panel=_METHOD),
]
Latency = Annotated[
    bool,
    typer.Option(
        "--latency", rich_help_panel=_METHOD,
        help="Also time to the first token and between tokens, by the path chat takes.",
    ),
]  # fmt: skip
Batched = Annotated[
    str | None,
    typer.Option(
        "--batched", metavar="N|fit", rich_help_panel=_METHOD,
        help="Also 1, 2, 4 ... N sequences decoding together; fit: as many as fit.",
    ),
]  # fmt: skip
Serving = Annotated[
    str | None,
    typer.Option(
        "--serving", metavar="N|fit", rich_help_panel=_METHOD,
        help="Also 1, 2, 4 ... N clients through the scheduler; --batched N shows the gap.",
    ),
]  # fmt: skip
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="table|md|csv|json|jsonl|sql", rich_help_panel=_SHOWN,
        help="Rows on stdout, in llama-bench's formats with our fields after its own.",
    ),
]  # fmt: skip
Chart = Annotated[
    bool, typer.Option("--chart", help="Draw the figures too.", rich_help_panel=_SHOWN)
]
Report = Annotated[
    str | None,
    typer.Option(
        "--report", metavar="FILE.html", help="Write a page with plots.", rich_help_panel=_SHOWN
    ),
]
Tag = Annotated[
    str | None,
    typer.Option("--tag", help="A name to find the run by.", rich_help_panel=_SHOWN),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", rich_help_panel=_SHOWN,
        help="Go on with the newest interrupted run of the same sweep.",
    ),
]  # fmt: skip


def axes(
    *,
    n_prompt: Values,
    n_gen: Values,
    pg: Values,
    n_depth: Values,
    n_batch: Values,
    n_ubatch: Values,
    threads: Values,
    n_gpu_layers: Values,
    n_cpu_moe: Values,
    flash_attn: Values,
    type_k: Values,
    type_v: Values,
    kv: str | None,
    split_mode: Values,
    main_gpu: Values,
    tensor_split: Values,
    mmap: Values,
    no_kv_offload: Values,
    default_threads: int | None = None,
) -> Axes:
    """The sweep that these texts ask for; None takes llama-bench's default.

    Raises UsageProblem for what is no value of its option.
    """
    type_k, type_v = _kv(kv, type_k, type_v)
    none = Axes()
    return Axes(
        n_prompt=grid.whole_numbers("-p", n_prompt) if n_prompt else none.n_prompt,
        n_gen=grid.whole_numbers("-n", n_gen) if n_gen else none.n_gen,
        n_pg=grid.pairs("-pg", pg) if pg else (),
        n_depth=grid.whole_numbers("-d", n_depth) if n_depth else none.n_depth,
        n_batch=grid.whole_numbers("-b", n_batch, least=1) if n_batch else none.n_batch,
        n_ubatch=_ubatch(n_ubatch) if n_ubatch else none.n_ubatch,
        n_threads=grid.whole_numbers("-t", threads, least=1)
        if threads else (default_threads or 0,),
        n_gpu_layers=grid.whole_numbers("-ngl", n_gpu_layers, negative=True)
        if n_gpu_layers else none.n_gpu_layers,
        n_cpu_moe=grid.whole_numbers("-ncmoe", n_cpu_moe) if n_cpu_moe else none.n_cpu_moe,
        split_mode=grid.split_modes("-sm", split_mode) if split_mode else none.split_mode,
        main_gpu=grid.whole_numbers("-mg", main_gpu) if main_gpu else none.main_gpu,
        tensor_split=grid.splits("-ts", tensor_split) if tensor_split else none.tensor_split,
        mmap=grid.switches("-mmp", mmap) if mmap else none.mmap,
        type_k=grid.kv_types("-ctk", type_k) if type_k else none.type_k,
        type_v=grid.kv_types("-ctv", type_v) if type_v else none.type_v,
        no_kv_offload=grid.switches("-nkvo", no_kv_offload)
        if no_kv_offload else none.no_kv_offload,
        flash_attn=grid.flash_modes("-fa", flash_attn) if flash_attn else none.flash_attn,
    )  # fmt: skip


def _kv(kv: str | None, type_k: Values, type_v: Values) -> tuple[Values, Values]:
    if kv is None:
        return type_k, type_v
    if type_k or type_v:
        raise UsageProblem("--kv sets both caches: not with -ctk or -ctv", "-ctk q8_0 -ctv f16")
    types = kv.split(",")
    if len(types) > 2:
        raise UsageProblem(f"--kv {kv!r} has more than two types", "--kv q8_0, or --kv q8_0,f16")
    return [types[0]], [types[-1]]


def share(option: str, text: str) -> float:
    """`2%` or `0.02`. Raises UsageProblem."""
    number, percent = text.strip().removesuffix("%").strip(), text.strip().endswith("%")
    try:
        value = float(number)
    except ValueError:
        raise UsageProblem(f"{option} {text!r} is no share", f"{option} 2%") from None
    return value / 100 if percent else value


def counts(option: str, text: str | None) -> tuple[int, ...]:
    """1, 2, 4 ... and the number that `text` is; (FIT,) for `fit`, none for None.

    Raises UsageProblem.
    """
    if text is None:
        return ()
    if text.strip().lower() == "fit":
        return (FIT,)
    number = text.strip()
    plain = number.isascii() and number.isdigit() and len(number) <= 4
    if not plain or not 1 <= int(number) <= _MOST_CLIENTS:
        raise UsageProblem(
            f"{option} {text!r} is no number from 1 to {_MOST_CLIENTS}, nor fit", f"{option} 8"
        )
    return counts_up_to(int(number))


def _ubatch(values: list[str]) -> tuple[int, ...]:
    if [value.strip().lower() for value in values] == ["fit"]:
        return (FIT,)
    return tuple(grid.whole_numbers("-ub", values, least=1))
