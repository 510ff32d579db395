"""How far the arithmetic of `localllm fit` is from llama.cpp's own reservation.

    python benchmarks/fit_error.py              # about a minute; --json for the rows
    python benchmarks/fit_error.py llama3.1-8b  # some models only

For hardware that is not here, `placement.compute` estimates compute buffers; for this machine
llama.cpp is asked. This prints, for the shapes of published models (sparse files, nothing is
downloaded), the estimate's error against what llama.cpp reserves on the CPU: of the compute
buffer, and of the model's whole need (weights and cache are exact). The last column is what
is left when llama.cpp was asked. Models marked * took no part in finding the formulas.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from localllm.engine.repack import repacks
from localllm.engine.reserve import reserve_here
from localllm.formats.gguf import read_header
from localllm.placement import Machine, PlanOptions, Target, plan_for, this_machine
from localllm.placement.plan import COMPUTE_ERROR, TOTAL_ERROR
from tests.support import native_truth
from tests.support.gguf_writer import F32
from tests.support.real_hybrids import HYBRIDS
from tests.support.real_shapes import SHAPES, RealShape, dense, write

CONTEXTS = (2048, 8192, 32768)
MICRO_BATCHES = (128, 512, 2048)
PARALLEL = (1, 4)

# arch, layers, embd, ff, heads, kv heads, head size, vocabulary, trained context
_LLAMA_LIKE: dict[str, tuple[Any, ...]] = {
    "baichuan2-7b": ("baichuan", 32, 4096, 11008, 32, 32, 128, 125696, 4096),
    "ernie4.5-0.3b": ("ernie4_5", 18, 1024, 3072, 16, 2, 128, 103424, 131072),
    "exaone-7.8b": ("exaone", 32, 4096, 14336, 32, 8, 128, 102400, 4096),
    "gemma-7b": ("gemma", 28, 3072, 24576, 16, 16, 256, 256000, 8192),
    "granite-8b": ("granite", 40, 4096, 12800, 32, 8, 128, 49155, 131072),
    "internlm2-20b": ("internlm2", 48, 6144, 16384, 48, 8, 128, 92544, 32768),
    "mistral-small-24b": ("mistral3", 40, 5120, 32768, 32, 8, 128, 131072, 131072),
    "mixtral-8x7b": ("llama", 32, 4096, 14336, 32, 8, 128, 32000, 32768),
    "smollm3-3b": ("smollm3", 36, 2048, 11008, 16, 4, 128, 128256, 65536),
}
_MORE: dict[str, dict[str, Any]] = {
    "ernie4.5-0.3b": {"tied": True},
    "gemma-7b": {"tied": True},
    "granite-8b": {"logit_scale": F32(8.0)},
    "mixtral-8x7b": {"experts": (8, 2, 14336)},
    "smollm3-3b": {"tied": True},
}


def held_out(name: str) -> RealShape:
    return dense(*_LLAMA_LIKE[name], **_MORE.get(name, {}))


@dataclass(frozen=True)
class Row:
    """One model under one set of options. Errors are shares: 0.1 is 10 % too much."""

    model: str
    held_out: bool
    n_ctx: int
    n_ubatch: int
    n_parallel: int
    flash_attn: str
    compute_bytes: int
    total_bytes: int
    compute_error: float
    total_error: float
    asked_error: float


def rows(name: str, path: Path, extra: bool) -> Iterator[Row]:
    header = read_header(path)
    target = Target((), 1 << 50, 1 << 50, None, 1, here=True)
    machine = Machine(lambda load, context: reserve_here(path, load, context), repacks)
    for n_ctx, n_ubatch, n_parallel in itertools.product(CONTEXTS, MICRO_BATCHES, PARALLEL):
        for flash in ("auto", "off") if n_parallel == 1 else ("auto",):
            options = PlanOptions(
                n_ctx=n_ctx // n_parallel, n_parallel=n_parallel, n_ubatch=n_ubatch,
                flash_attn="off" if flash == "off" else "auto",
            )  # fmt: skip
            truth = native_truth.measure(
                path, n_ctx=n_ctx, n_ubatch=n_ubatch, n_seq_max=n_parallel, swa_full=False,
                flash_attn_type=0 if flash == "off" else -1,
            )  # fmt: skip
            real = sum(b.compute for b in truth.buffers.values())
            guess = plan_for(header, target, options)
            # A repacked tied embedding is known only to who asks this CPU.
            asked = plan_for(header, target, options, machine)
            twice = asked.weights_bytes - guess.weights_bytes
            yield Row(
                model=name,
                held_out=extra,
                n_ctx=n_ctx,
                n_ubatch=n_ubatch,
                n_parallel=n_parallel,
                flash_attn=flash,
                compute_bytes=real,
                total_bytes=truth.total,
                compute_error=guess.host.compute_bytes / real - 1,
                total_error=(guess.total_bytes + twice) / truth.total - 1,
                asked_error=asked.total_bytes / truth.total - 1,
            )


def gpu_lines() -> Iterator[str]:
    """Device buffers on this build's GPUs, all layers and half of them offloaded.

    Few layers and a small vocabulary, for software devices with small limits. The estimate for
    half of the layers is meant to be on the safe side. A device without a kernel for a model's
    operations (Mamba's on some) sends activations to the CPU and back, and takes more.
    """
    target = this_machine()
    for name, build in {**SHAPES, **HYBRIDS}.items():
        if max(t.size_bytes for t in build(n_layer=8, n_vocab=8192).tensors) > 128 << 20:
            continue  # more than a software device takes: it would compute that on the CPU
        with tempfile.TemporaryDirectory() as folder:
            path = write(build(n_layer=8, n_vocab=8192), Path(folder))
            header, cells = read_header(path), []
            machine = Machine(lambda load, context, p=path: reserve_here(p, load, context), repacks)
            for n_gpu_layers in (9, 5):
                options = PlanOptions(n_ctx=4096, n_gpu_layers=n_gpu_layers)
                guess = plan_for(header, target, options)
                real = plan_for(header, target, options, machine)
                cells += [
                    f"{g.name} {100 * (g.compute_bytes / r.compute_bytes - 1):+6.1f}"
                    for g, r in zip(guess.devices, real.devices, strict=True)
                    if r.compute_bytes
                ]
        yield f"{name:20} | " + " | ".join(cells)


def worst(found: list[Row], field: str) -> tuple[float, float]:
    values = [getattr(row, field) for row in found]
    return min(0.0, *values), max(0.0, *values)


def line(label: str, found: list[Row]) -> str:
    usual = [r for r in found if r.flash_attn == "auto" and r.n_ubatch == 512]
    cells = [
        "{:+6.1f} {:+6.1f}".format(*(100 * v for v in worst(part, "compute_error")))
        for part in (usual, [r for r in found if r.flash_attn == "auto"], found)
    ]
    total = "{:+6.2f} {:+6.2f}".format(*(100 * v for v in worst(found, "total_error")))
    asked = max(abs(v) for v in worst(found, "asked_error"))
    return f"{label:20} | {cells[0]} | {cells[1]} | {cells[2]} | {total} | {100 * asked:9.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", help="names; all without")
    parser.add_argument("--json", action="store_true", help="every row, as JSON lines")
    given = parser.parse_args()
    if not native_truth.available():
        sys.exit("llama_get_memory_breakdown cannot be called here (Linux with libstdc++ only)")
    builders: dict[str, tuple[Callable[..., RealShape], bool]] = {
        name: (build, False) for name, build in {**SHAPES, **HYBRIDS}.items()
    }
    builders |= {name: (lambda name=name: held_out(name), True) for name in _LLAMA_LIKE}
    wanted = given.models or list(builders)
    if unknown := [name for name in wanted if name not in builders]:
        sys.exit(f"no shape called {unknown[0]}; there are {', '.join(builders)}")
    everything: list[Row] = []
    if not given.json:
        print(
            "error in %            |   compute,     |   compute,    |   compute,    |  whole need,"
            "  |  asked,\n"
            "smallest, largest    | FA auto, ub 512 |  FA auto, all  |  all options  |  all options"
            "  |  largest"
        )
    for name in wanted:
        build, extra = builders[name]
        with tempfile.TemporaryDirectory() as folder:
            found = list(rows(name, write(build(), Path(folder)), extra))
        everything += found
        if given.json:
            for row in found:
                print(json.dumps(asdict(row)))
        else:
            print(line(name + "*" * extra, found), flush=True)
    if not given.json:
        for label, part in (
            ("fitted", [r for r in everything if not r.held_out]),
            ("held out", [r for r in everything if r.held_out]),
            ("all", everything),
        ):
            if part:
                print(line(label, part))
        if not given.models and this_machine().gpus:
            print("\nGPU buffers, error in %: all layers offloaded, then half")
            for text in gpu_lines():
                print(text, flush=True)
        print(f"stated: compute {100 * COMPUTE_ERROR:.0f} %, whole need {100 * TOTAL_ERROR:.0f} %")


if __name__ == "__main__":
    main()
