"""How long a model takes to load, from the disk (cold) and from the page cache (warm).

Each load is in a process of its own: `python -m localllm.library.bench.measuring.loading` is
that child, a pickled request in, one JSON object out.
"""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import config
from localllm import errors as known_errors
from localllm.errors import EngineError, LocalLLMError
from localllm.library.bench.record import LoadTimes

if TYPE_CHECKING:
    from localllm.engine.options import ContextOptions, LoadOptions
    from localllm.placement import PlanOptions


def load_times(
    path: Path,
    options: PlanOptions | None = None,
    *,
    repetitions: int = 3,
    load: LoadOptions | None = None,
    context: ContextOptions | None = None,
    cold: bool = True,
    force: bool = False,
    timeout_s: float = 600.0,
    advance: Callable[[int], None] | None = None,
    adapters: Sequence[tuple[Path, float]] = (),
) -> LoadTimes:
    """Seconds from the file's name to a context, each in a process of its own.

    Planning counts, starting Python and llama.cpp's library does not. `advance` counts loads:
    `repetitions` cold ones, one that fills the cache, `repetitions` warm ones; where the cache
    cannot be emptied the cold ones are skipped at once.
    Raises what loading raises; EngineError when a child dies or takes longer than `timeout_s`.
    """
    from localllm.engine.load import shards_of
    from localllm.library.bench.measuring.page_cache import evict

    request = _Request(path, options, load, context, force, tuple(adapters))
    files = [*shards_of(path), *(one for one, _ in adapters)]
    colds: list[float] = []
    refused = None if cold else "not asked for"
    while cold and len(colds) < repetitions and refused is None:
        refused = evict(files)
        if refused is None:
            colds.append(_one(request, timeout_s))
            _tell(advance, 1)
    if len(colds) < repetitions:
        _tell(advance, repetitions - len(colds))
    _one(request, timeout_s)
    _tell(advance, 1)
    warm = []
    for _ in range(repetitions):
        warm.append(_one(request, timeout_s))
        _tell(advance, 1)
    return LoadTimes(cold_s=tuple(colds), warm_s=tuple(warm), cold_refused=refused)


@dataclass(frozen=True)
class _Request:
    path: Path
    options: PlanOptions | None
    load: LoadOptions | None
    context: ContextOptions | None
    force: bool
    adapters: tuple[tuple[Path, float], ...]


def _one(request: _Request, timeout_s: float) -> float:
    """One load in a fresh process."""
    package_root = str(Path(__file__).resolve().parents[4])
    # -P: nothing that lies in the current folder is imported.
    command = [sys.executable, "-P", "-m", "localllm.library.bench.measuring.loading"]
    environment = {**config.environment(), "PYTHONPATH": package_root, "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            command,
            input=base64.b64encode(pickle.dumps(request)),
            capture_output=True,
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"{request.path.name} did not load within {timeout_s:g} seconds"
        ) from None
    except OSError as error:
        raise EngineError(f"cannot start a process to load {request.path.name}: {error}") from None
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else f"exit status {done.returncode}"
        raise EngineError(f"loading {request.path.name} ended its process: {why}") from None
    if problem := reply.get("error"):
        kind = getattr(known_errors, problem["class"], EngineError)
        raise kind(problem["message"], problem["hint"])
    return float(reply["seconds"])


def _tell(advance: Callable[[int], None] | None, count: int) -> None:
    if advance is not None:
        advance(count)


def main() -> int:
    """The child: load, say how long it took."""
    # Class names in the pickle are this module's by its real name, not __main__.
    request = pickle.loads(base64.b64decode(sys.stdin.buffer.read()))
    from localllm.engine import native
    from localllm.placement import open_model

    try:
        native.lib()
        begun = time.perf_counter()
        with open_model(
            request.path,
            request.options,
            load=request.load,
            context=request.context,
            force=request.force,
            adapters=request.adapters,
        ):
            reply: dict[str, object] = {"seconds": time.perf_counter() - begun}
    except LocalLLMError as error:
        reply = {
            "error": {
                "class": type(error).__name__, "message": error.message, "hint": error.hint
            }
        }  # fmt: skip
    json.dump(reply, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
