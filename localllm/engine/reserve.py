"""What llama.cpp would allocate, learnt without allocating: a dry run of load and context.

With `no_alloc` llama.cpp reads the metadata only, places every layer and reserves its compute
graphs; its log then tells the buffers. A sparse file (a header, then a hole of the model's
size) is enough, so a model that was not downloaded can be measured.

    reservation = reserve(path, LoadOptions(), ContextOptions(n_ctx=8192))

`reserve` runs in a child process, since llama.cpp asserts, that is, ends its process, on some
headers. `python -m localllm.engine.reserve` is that child: a JSON request in, a reply out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from localllm import config
from localllm import errors as known_errors
from localllm.engine import native, rpc
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.errors import EngineError, LocalLLMError

TIMEOUT_S = 120.0
MIB = 1024 * 1024

# llama.cpp overstates the dry run of pipelined devices; see `_pipeline_excess`.
_PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES

_BUFFER = re.compile(r"^\w+: +(\S+) +(RS|output|compute) buffer size = +([\d.]+) MiB")
_CACHE = re.compile(r"^llama_kv_cache\w*: size = +([\d.]+) MiB")
_PLACED = re.compile(r"^load_tensors: layer +(\d+) assigned to device (\S+), is_swa")
_N_EMBD = re.compile(r"^print_info: n_embd += (\d+)")


@dataclass(frozen=True)
class BufferReservation:
    """One buffer type's bytes, by ggml's name: "CPU", "CUDA0" (video memory), "CUDA_Host"
    (host memory that the GPU reaches). Rounded by llama.cpp to 0.01 MiB."""

    name: str
    compute_bytes: int
    output_bytes: int
    state_bytes: int  # of recurrent layers


@dataclass(frozen=True)
class Reservation:
    """What a context of a model would take besides weights and KV cache.

    `kv_bytes` is llama.cpp's own sum over all layers (rounded to 0.01 MiB a cache); `layers`
    names the device of each layer, the output's last. `n_ctx` is after llama.cpp's padding.
    """

    buffers: tuple[BufferReservation, ...]
    kv_bytes: int
    layers: tuple[str, ...]
    n_ctx: int
    n_ctx_seq: int
    flash_attn: bool
    pipelined: bool

    def on(self, name: str) -> BufferReservation:
        """The buffer of this name, zeros if there is none."""
        found = [buffer for buffer in self.buffers if buffer.name == name]
        return found[0] if found else BufferReservation(name, 0, 0, 0)

    @property
    def compute_bytes(self) -> int:
        return sum(buffer.compute_bytes for buffer in self.buffers)


def reserve(
    path: Path, load: LoadOptions, context: ContextOptions, *, timeout_s: float = TIMEOUT_S
) -> Reservation:
    """Ask llama.cpp in a child process (about 0.5 s, more for a large vocabulary).

    Nothing is allocated but recurrent states. `path` may be the first shard of several.
    Raises what loading raises (FileGone, DamagedFile, EngineError, UsageProblem), and
    EngineError when the child dies or takes longer than `timeout_s`.
    """
    request = {"path": str(path), "load": asdict(load), "context": _plain(context)}
    # The child must find this package, and nothing that lies in the current folder (-P).
    package_root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-P", "-m", "localllm.engine.reserve"]
    environment = {**config.environment(), "PYTHONPATH": package_root, "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"llama.cpp did not measure {path.name} within {timeout_s:g} seconds"
        ) from None
    except OSError as error:
        raise EngineError(f"cannot start a process to measure {path.name}: {error}") from None
    return _reply(path, done)


def reserve_here(path: Path, load: LoadOptions, context: ContextOptions) -> Reservation:
    """The same in this process. A header that llama.cpp asserts on ends the process."""
    from localllm.engine.calls import AbortFlag
    from localllm.engine.context import check_options, context_params
    from localllm.engine.model import Model

    llama = native.lib()
    # Not by Context: it asks for a vocabulary, and a measured header may have none.
    with native.capture() as log, Model.load(path, replace(load, no_alloc=True)) as model:
        check_options(model, context)
        keep: list[Any] = [AbortFlag()]
        made = llama.llama_init_from_model(
            model.handle, context_params(llama, context, keep[0], keep)
        )
        if not made:
            raise native.failure(f"llama.cpp could not measure {path.name}", log)
        n_ctx, n_ctx_seq = llama.llama_n_ctx(made), llama.llama_n_ctx_seq(made)
        n_ubatch = llama.llama_n_ubatch(made)
        llama.llama_free(made)
    return parse([line.text for line in log.lines], n_ctx, n_ctx_seq, n_ubatch)


def parse(lines: list[str], n_ctx: int, n_ctx_seq: int, n_ubatch: int) -> Reservation:
    """Read the log of a dry run."""
    sums: dict[str, dict[str, int]] = {}
    placed: dict[int, str] = {}
    kv_bytes = n_embd = 0
    for line in lines:
        if match := _BUFFER.match(line):
            name = rpc.plain_name(match[1])
            kinds = sums.setdefault(name, {"RS": 0, "output": 0, "compute": 0})
            kinds[match[2]] += _mib(match[3])
        elif match := _CACHE.match(line):
            kv_bytes += _mib(match[1])
        elif match := _PLACED.match(line):
            placed[int(match[1])] = match[2]
        elif match := _N_EMBD.match(line):
            n_embd = int(match[1])
    layers = tuple(placed[i] for i in sorted(placed))
    pipelined = any("pipeline parallelism enabled" in line for line in lines)
    if pipelined:
        for name in _later_devices(layers):
            if name in sums:
                sums[name]["compute"] -= _pipeline_excess(n_ubatch, n_embd)
    return Reservation(
        buffers=tuple(
            BufferReservation(name, k["compute"], k["output"], k["RS"]) for name, k in sums.items()
        ),
        kv_bytes=kv_bytes,
        layers=layers,
        n_ctx=n_ctx,
        n_ctx_seq=n_ctx_seq,
        flash_attn=not any("Flash Attention not supported" in line for line in lines)
        and any("Flash Attention enabled" in line or "flash_attn            = enabled" in line
                for line in lines),
        pipelined=pipelined,
    )  # fmt: skip


def _pipeline_excess(n_ubatch: int, n_embd: int) -> int:
    """What the dry run adds for each pipelined device after the first, and a real one does not.

    Measured on two and three devices: the hidden state that comes from the device before is
    counted once more for each of the scheduler's copies.
    """
    return _PIPELINE_COPIES * n_ubatch * n_embd * 4


def _later_devices(layers: tuple[str, ...]) -> list[str]:
    """Devices with a repeating layer, without the first."""
    return list(dict.fromkeys(layers[:-1]))[1:]


def _mib(text: str) -> int:
    return round(float(text) * MIB)


# --- between parent and child ------------------------------------------------------------


def _plain(context: ContextOptions) -> dict[str, Any]:
    return {k: v for k, v in asdict(replace(context, eval_hook=None)).items() if v is not None}


def _reply(path: Path, done: subprocess.CompletedProcess[str]) -> Reservation:
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        raise _died(path, done) from None
    if problem := reply.get("error"):
        kind = getattr(known_errors, problem["class"], EngineError)
        message = problem["message"]
        # A failed assertion knows the source line and not the file that was read.
        named = kind is not EngineError or path.name in message
        raise kind(message if named else f"{path.name}: {message}", problem["hint"])
    found = reply["reservation"]
    found["buffers"] = tuple(BufferReservation(**buffer) for buffer in found["buffers"])
    found["layers"] = tuple(found["layers"])
    return Reservation(**found)


def _died(path: Path, done: subprocess.CompletedProcess[str]) -> EngineError:
    """The last words of a child that did not reply: llama.cpp's own, or the system's."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "GGML_ASSERT" in line or "fatal error" in line]
    why = (telling or lines or [f"exit status {done.returncode}"])[-1]
    return EngineError(f"llama.cpp could not measure {path.name}: {Path(why).name}")


def main() -> int:
    """The child: one request on stdin, one reply on stdout."""
    request = json.load(sys.stdin)
    try:
        load = request["load"]
        load["tensor_split"] = tuple(load["tensor_split"])
        load["devices"] = None if load["devices"] is None else tuple(load["devices"])
        found = reserve_here(
            Path(request["path"]), LoadOptions(**load), ContextOptions(**request["context"])
        )
    except LocalLLMError as error:
        problem = {"class": type(error).__name__, "message": error.message, "hint": error.hint}
        json.dump({"error": problem}, sys.stdout)
        return 0
    json.dump({"reservation": asdict(found)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
