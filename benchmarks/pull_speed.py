"""How fast one large file arrives, verified, against the tool people would use instead.

    python benchmarks/pull_speed.py                  against `hf download`, on loopback
    python benchmarks/pull_speed.py --pypi           against `pip download`, on loopback
    python benchmarks/pull_speed.py --size-mib 256 --rounds 3

Both sides run as processes of their own, started anew each round and turn about, against one
server in a third process that hands the file to the kernel (sendfile). Ours computes the
sha256 of every byte, compares it with the published one and flushes to the disk (fsync);
`hf download` compares the size, `pip download` the sha256. The ratio is that of the medians,
theirs over ours: above 1 ours is faster. Each side's time is its whole process, start and
imports included; the time inside our `fetch` is shown beside it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OURS = """
import sys, time
from dataclasses import replace
from pathlib import Path
from localllm import config
from localllm.refs import ModelRef
from localllm.sources import open_source
reference, partial = ModelRef.parse(sys.argv[1]), Path(sys.argv[2])
source = open_source(reference, config.load())
(file,) = source.locate(reference).variants[0].weights
started = time.perf_counter()
fetched = source.fetch(file, partial, lambda count: None)
assert fetched.verified, fetched
print(time.perf_counter() - started)
"""

SERVE_HUB = """
import sys
from pathlib import Path
from tests.support.hub_server import HubServer
with HubServer() as hub:
    hub.add_repo("bench/model-GGUF", {"model-Q4_K_M.gguf": Path(sys.argv[1])})
    print(hub.url, flush=True)
    sys.stdin.read()  # until the benchmark closes its end
"""

SERVE_PYPI = """
import sys
from pathlib import Path
from tests.support.pypi_server import BuiltWheel, Entry, PypiServer
wheel = Path(sys.argv[1])
with PypiServer() as index:
    hashes = {"sha256": sys.argv[2]}
    index.entries["bench-model"] = [Entry(BuiltWheel(wheel.name, wheel), hashes)]
    print(index.index_url, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Contest:
    """One server and two commands; `{out}` in them is an empty folder, new in each round."""

    theirs_name: str
    ours: list[str]
    theirs: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class Times:
    ours_s: list[float]
    ours_fetch_s: list[float]
    theirs_s: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pypi", action="store_true", help="against pip download")
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="pull-speed-") as name:
        folder = Path(name)
        against = pypi_contest if given.pypi else hub_contest
        with against(folder, given.size_mib << 20) as contest:
            times = race(contest, folder / "out", given.rounds)
    report(contest.theirs_name, times, given.size_mib << 20)


def race(contest: Contest, out: Path, rounds: int) -> Times:
    """Turn about, ours first in even rounds; one round before that is not counted."""
    ours: list[float] = []
    fetches: list[float] = []
    theirs: list[float] = []
    for number in range(-1, rounds):
        turns: list[Callable[[], None]] = [
            lambda: ours.append(_timed(contest.ours, out, contest.env, fetches)),
            lambda: theirs.append(_timed(contest.theirs, out, contest.env)),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
        if number >= 0:
            print(f"round {number + 1}: ours {ours[-1]:.2f} s, theirs {theirs[-1]:.2f} s")
    return Times(ours[1:], fetches[1:], theirs[1:])


def _timed(
    command: list[str], out: Path, env: dict[str, str], inner_s: list[float] | None = None
) -> float:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if hasattr(os, "sync"):
        os.sync()  # what the round before wrote is not this one's to pay
    words = [word.replace("{out}", str(out)) for word in command]
    started = time.perf_counter()
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    if inner_s is not None:
        inner_s.append(float(done.stdout.split()[-1]))
    return took


def report(theirs_name: str, times: Times, size_bytes: int) -> None:
    ours, theirs = statistics.median(times.ours_s), statistics.median(times.theirs_s)
    fetch = statistics.median(times.ours_fetch_s)

    def rate(seconds: float) -> str:
        return f"{seconds:.2f} s ({size_bytes / seconds / 1e6:.0f} MB/s)"

    print(f"ours          {rate(ours)}, of which fetch {rate(fetch)}")
    print(f"{theirs_name:13} {rate(theirs)}")
    print(f"ratio of medians, {theirs_name} / ours: {theirs / ours:.2f}")


def large_file(path: Path, size_bytes: int) -> Path:
    """Random bytes: nothing on the way can pack them."""
    with path.open("wb") as file:
        file.write(b"GGUF")
        left = size_bytes - 4
        while left:
            left -= file.write(os.urandom(min(left, 8 << 20)))
    return path


def large_wheel(path: Path, size_bytes: int) -> str:
    """A wheel that carries one model, deflated as build tools do; gives its sha256."""
    model = large_file(path.with_suffix(".gguf"), size_bytes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        wheel.write(model, "bench_model/model-Q4_K_M.gguf")
        info = "bench_model-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: bench-model\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        digest = base64.urlsafe_b64encode(_sha256(model).digest()).rstrip(b"=").decode()
        record = f"bench_model/model-Q4_K_M.gguf,sha256={digest},{size_bytes}\n{info}/RECORD,,\n"
        wheel.writestr(f"{info}/RECORD", record)
    model.unlink()
    return _sha256(path).hexdigest()


def _sha256(path: Path) -> hashlib._Hash:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


@contextmanager
def server(code: str, *arguments: str) -> Iterator[str]:
    """A server of tests/support in a process of its own; gives the URL it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The developer's own, with caches and tokens of nobody."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1,localhost", **more}
    env |= {"HF_HOME": str(folder / "hf"), "LOCALLLM_HOME": str(folder / "home")}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        env.pop(name, None)
    return env


@contextmanager
def hub_contest(folder: Path, size_bytes: int) -> Iterator[Contest]:
    path = large_file(folder / "model-Q4_K_M.gguf", size_bytes)
    with server(SERVE_HUB, str(path)) as url:
        hf = shutil.which("hf", path=str(Path(sys.executable).parent)) or "hf"
        theirs = [hf, "download", "bench/model-GGUF", path.name, "--local-dir", "{out}"]
        ours = [sys.executable, "-c", OURS, "hf:bench/model-GGUF", "{out}/partial"]
        env = environment(folder, HF_ENDPOINT=url, HF_HUB_DISABLE_TELEMETRY="1")
        yield Contest("hf download", ours, theirs, env)


@contextmanager
def pypi_contest(folder: Path, size_bytes: int) -> Iterator[Contest]:
    if importlib.util.find_spec("pip") is None:
        sys.exit("pip is not installed in this environment")
    path = folder / "bench_model-1.0-py3-none-any.whl"
    with server(SERVE_PYPI, str(path), large_wheel(path, size_bytes)) as url:
        theirs = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
        theirs += ["--dest", "{out}", "bench-model"]
        ours = [sys.executable, "-c", OURS, "pypi:bench-model", "{out}/partial"]
        env = environment(folder, PIP_INDEX_URL=url, PIP_CONFIG_FILE=os.devnull)
        for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"):
            env.pop(name, None)
        yield Contest("pip download", ours, theirs, env)


if __name__ == "__main__":
    main()
