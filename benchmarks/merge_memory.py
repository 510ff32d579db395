"""Peak memory of `localllm merge` on models with the shapes of a 7B.

    python benchmarks/merge_memory.py [--layers 2] [--models 2] [--method ties ...] [--fill]
        [--lora] [--json]

Writes a base and other models in F16 with Qwen2.5-7B's widths: embedding and output of 152,064
tokens by 3,584 (1.09 GB each, the largest tensors there are), layers of 466 MB each with their
three matrices of 3,584 x 18,944. All 28 layers would be 15 GB a model; memory follows the
largest tensor and not the number of layers, so two stand for them (`--layers 28` makes all).
Their weights are holes in the files unless `--fill`, which repeats a block of random numbers:
what is read, computed and written is the same size, and so are the times but for the disk.
Each merge is a process of its own; its peak is the kernel's own mark of the largest resident
memory (psutil's where there is none), of the process and the children that it starts. The
project wants less than 4 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

WIDTH, HIDDEN, VOCAB, HEADS, KV_HEADS = 3584, 18944, 152064, 28, 4
LIMIT_BYTES = 4_000_000_000
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties", "passthrough")


@dataclass(frozen=True)
class Row:
    what: str
    peak_bytes: int
    wall_s: float
    read_bytes: int
    written_bytes: int


def write_model(path: Path, n_layers: int, seed: int, fill: bool) -> int:
    """A llama of these widths; the bytes of the file."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(n_layers)
    writer.add_context_length(32768)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(1)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>" for i in range(VOCAB)])
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([1] * VOCAB)
    for name, shape, kind in _tensors(n_layers):
        size = (4 if kind is gguf.GGMLQuantizationType.F32 else 2) * prod(shape)
        writer.add_tensor_info(name, shape, _dtype(kind), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return _data(path, seed, fill)


def _tensors(n_layers: int) -> list[tuple[str, tuple[int, ...], Any]]:
    import gguf

    half, full = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32
    kv = WIDTH // HEADS * KV_HEADS
    found: list[tuple[str, tuple[int, ...], Any]] = [
        ("token_embd.weight", (VOCAB, WIDTH), half), ("output.weight", (VOCAB, WIDTH), half),
        ("output_norm.weight", (WIDTH,), full),
    ]  # fmt: skip
    for i in range(n_layers):
        for name, shape, kind in (
            ("attn_norm", (WIDTH,), full), ("ffn_norm", (WIDTH,), full),
            ("attn_q", (WIDTH, WIDTH), half), ("attn_k", (kv, WIDTH), half),
            ("attn_v", (kv, WIDTH), half), ("attn_output", (WIDTH, WIDTH), half),
            ("ffn_gate", (HIDDEN, WIDTH), half), ("ffn_up", (HIDDEN, WIDTH), half),
            ("ffn_down", (WIDTH, HIDDEN), half),
        ):  # fmt: skip
            found.append((f"blk.{i}.{name}.weight", shape, kind))
    return found


def _dtype(kind: Any) -> Any:
    import gguf
    import numpy as np

    return np.float32 if kind is gguf.GGMLQuantizationType.F32 else np.float16


def _data(path: Path, seed: int, fill: bool) -> int:
    """Grow the file to hold its tensors: a hole, or a random block over and over."""
    import numpy as np

    from localllm.formats.gguf import parse_header

    raw = path.read_bytes()
    header = parse_header(raw, 1 << 60)
    size = header.data_offset + header.data_bytes
    with path.open("r+b") as file:
        if fill:
            rng = np.random.default_rng(seed)
            block = (rng.standard_normal(1 << 22, dtype=np.float32) * 0.02).astype(np.float16)
            file.seek(header.data_offset)
            left = header.data_bytes
            while left > 0:
                file.write(block.tobytes()[:left])
                left -= min(left, block.nbytes)
        file.truncate(size)
    return size


def run(what: str, args: list[str], folder: Path, read_bytes: int) -> Row:
    """One merge in a child; the largest sum of resident memory over it and its children."""
    home = folder / "home"
    env = {**os.environ, "LOCALLLM_HOME": str(home)}
    command = [sys.executable, "-m", "localllm", "merge", *args, "--json", "--name", "out:F16"]
    begun = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(child, peak))
    watcher.start()
    out, err = child.communicate()
    watcher.join()
    if child.returncode:
        raise SystemExit(f"{what} failed: {err.decode()}{out.decode()}")
    took = time.perf_counter() - begun
    written = json.loads(out)["data"]["file_bytes"]
    subprocess.run(
        [sys.executable, "-m", "localllm", "rm", "out:F16"], env=env, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return Row(what, peak[0], took, read_bytes, written)


def _watch(child: subprocess.Popen[bytes], peak: list[int]) -> None:
    import psutil

    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            own = _high_water(child.pid) or process.memory_info().rss
            others = sum(p.memory_info().rss for p in process.children(recursive=True))
        except psutil.Error:
            continue
        peak[0] = max(peak[0], own + others)
        time.sleep(0.02)


def _high_water(pid: int) -> int:
    """VmHWM of /proc, 0 where there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def arguments(method: str, base: Path, others: list[Path], n_layers: int) -> list[str]:
    models = [str(path) for path in others]
    if method == "linear":
        return [*models, "--method", method, "--weight", "0.5"]
    if method == "slerp":
        return [str(base), models[0], "--method", method, "--t", "0.4"]
    if method == "passthrough":
        ranges = [f"{path}=0-{n_layers}" for path in (base, others[0])]
        return ["--method", method, *[word for r in ranges for word in ("--layers", r)]]
    thin = [] if method == "task_arithmetic" else ["--density", "0.5"]
    return [*models, "--base", str(base), "--method", method, "--weight", "0.5", *thin]


def write_adapter(path: Path, n_layers: int, rank: int = 64) -> Path:
    """A LoRA on all seven matrices of every layer."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(2 * rank))
    for name, shape, _ in _tensors(n_layers):
        if name.startswith("blk.") and len(shape) == 2:
            a = rng.standard_normal((rank, shape[1]), dtype=np.float32) * np.float32(0.01)
            b = rng.standard_normal((shape[0], rank), dtype=np.float32) * np.float32(0.01)
            writer.add_tensor(f"{name}.lora_a", a)
            writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--models", type=int, default=2, help="beside the base")
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--fill", action="store_true")
    parser.add_argument("--lora", action="store_true", help="merge an adapter of rank 64 too")
    parser.add_argument("--folder", type=Path, help="where the models are written")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="merge-memory-", dir=args.folder) as text:
        folder = Path(text)
        paths = [folder / f"m{i}.gguf" for i in range(args.models + 1)]
        size = 0
        for i, path in enumerate(paths):
            size = write_model(path, args.layers, i, args.fill)
        base, *others = paths
        for method in args.method:
            words = arguments(method, base, others, args.layers)
            rows.append(run(method, words, folder, size * len(paths)))
            _say(rows[-1], args.json)
        if args.lora:
            adapter = write_adapter(folder / "lora.gguf", args.layers)
            words = [str(base), "--lora", str(adapter), "--type", "F16", "--no-loss",
                     "--allow-loss"]  # fmt: skip
            rows.append(run("lora", words, folder, size))
            _say(rows[-1], args.json)
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
    worst = max(row.peak_bytes for row in rows)
    if worst >= LIMIT_BYTES:
        raise SystemExit(f"{worst / 1e9:.2f} GB is more than {LIMIT_BYTES / 1e9:g} GB")


def _say(row: Row, as_json: bool) -> None:
    if not as_json:
        print(
            f"{row.what:16} peak {row.peak_bytes / 1e9:5.2f} GB  {row.wall_s:7.1f} s  "
            f"read {row.read_bytes / 1e9:.1f} GB  wrote {row.written_bytes / 1e9:.1f} GB",
            flush=True,
        )


if __name__ == "__main__":
    main()
