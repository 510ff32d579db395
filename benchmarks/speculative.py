"""What a draft does to the speed of generation, and whether the stated speed-up is true.

    python benchmarks/speculative.py MODEL.gguf [--draft DRAFT.gguf] [--tokens 128] [--rounds 3]
                                     [--threads N] [--p-min P] [--json]
    python benchmarks/speculative.py --synthetic [...]

Without --draft the text drafts itself (what `--draft ngram` does). Four texts, each answered with
and without a draft, one after the other in every round, so that a noisy machine is noisy for both:

  prose      a story, greedily: hard to guess
  drawn      the same at temperature 0.8
  quoting    a list to be repeated with small changes: what a lookup is good at
  code       code to be repeated

--synthetic shows what the machinery reaches where drafting is what it is made for: a target of
400 million weights (all zero: they cost their time and change nothing) says a text that a model
of one small layer knows by heart, or four fifths of it, or half.

A ratio is tokens a second with a draft over without, as the median of the rounds' own ratios.
"stated" is the speed-up that the answer's accounting estimates of itself. Above 1 the draft wins;
where it loses, drafting rests and the ratio should stay near 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from localllm.engine.context import Context
from localllm.engine.draft.draft import DraftAccounting, DraftGenerator, DraftOptions
from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.engine.threads import default_threads
from localllm.generation import Accounting, Sampling
from tests.support.gguf_writer import U32, T
from tests.support.tiny_models import llama_model, tiny_chain
from tests.support.tiny_vocab import bpe_vocab

_LIST = "".join(
    f"- item {i}: apples {i * 3}, pears {i * 7}, plums {i * 11}\n" for i in range(1, 16)
)
_CODE = (
    "def area(width, height):\n    return width * height\n\n"
    "def volume(width, height, depth):\n    return area(width, height) * depth\n\n"
    "def surface(width, height, depth):\n"
    "    return 2 * (area(width, height) + area(width, depth) + area(height, depth))\n\n"
)

TEXTS: dict[str, tuple[str, float]] = {
    "prose": ("Once upon a time, in a town by the sea, there lived a clockmaker who", 0.0),
    "drawn": ("Once upon a time, in a town by the sea, there lived a clockmaker who", 0.8),
    "quoting": (f"The list:\n{_LIST}\nThe list again:\n{_LIST[:60]}", 0.0),
    "code": (f"{_CODE}# The same again, for the tests:\n{_CODE[:50]}", 0.0),
}


def answered(generator: LocalGenerator, text: str, sampling: Sampling) -> Accounting:
    generator.session.reset()
    stream = generator.complete(text, sampling)
    for _ in stream:
        pass
    assert stream.accounting is not None
    return stream.accounting


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.synthetic:
        with tempfile.TemporaryDirectory(prefix="localllm-speculative-") as folder:
            target, drafts = synthetic(Path(folder))
            sampling = Sampling(temperature=0, max_tokens=arguments.tokens)
            rows = {
                name: compared(target, draft, {"text": ("!", sampling)}, arguments)["text"]
                for name, draft in drafts.items()
            }
    else:
        texts = {
            name: (text, Sampling(temperature=temperature, max_tokens=arguments.tokens))
            for name, (text, temperature) in TEXTS.items()
        }
        rows = compared(arguments.model, arguments.draft, texts, arguments)
    return {
        "model": arguments.model.name if arguments.model else "synthetic",
        "draft": arguments.draft.name if arguments.draft else "ngram",
        "n_tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "n_threads": arguments.threads,
        "p_min": arguments.p_min,
        "texts": rows,
    }


def compared(
    path: Path,
    draft_path: Path | None,
    texts: dict[str, tuple[str, Sampling]],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Each text with and without the draft, in turn."""
    options = ContextOptions(n_ctx=2048, n_threads=arguments.threads)
    with ExitStack() as stack:
        model = stack.enter_context(Model.load(path))
        plain = LocalGenerator(Context(model, options))
        draft = None
        if draft_path:
            draft = Context(stack.enter_context(Model.load(draft_path)), options)
        how = DraftOptions(p_min=arguments.p_min)
        drafted = DraftGenerator(Context(model, options), draft, options=how)
        answered(drafted, next(iter(texts.values()))[0], Sampling(max_tokens=4))  # warm-up
        rows = {}
        for name, (text, sampling) in texts.items():
            rounds = []
            for i in range(arguments.rounds):
                seeded = replace(sampling, seed=i)
                without = answered(plain, text, seeded)
                with_draft = answered(drafted, text, seeded)
                assert isinstance(with_draft, DraftAccounting)
                if without.decode_tps and with_draft.decode_tps:
                    rounds.append((without, with_draft))
            rows[name] = summary(rounds)
    return rows


def synthetic(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The target, and drafts that know the whole of its text, 4 in 5 and 1 in 2 tokens."""
    said = [*range(33, 127), *range(161, 255)]
    following = dict(zip(said, [*said[1:], said[0]], strict=True))
    drafts = {}
    for name, wrong in (("knows all", 0), ("knows 4 in 5", 5), ("knows half", 2)):
        known = {
            last: said[0] if wrong and i % wrong == 0 else token
            for i, (last, token) in enumerate(following.items())
        }
        drafts[name] = tiny_chain(folder / f"{name}.gguf", known)
    return _heavy_chain(folder / "target.gguf", following), drafts


def _heavy_chain(path: Path, following: dict[int, int]) -> Path:
    """As tests.support's tiny_chain, with 24 layers 1024 wide in Q8_0 that add nothing."""
    import numpy as np

    n_layer, n_embd, n_ff, words = 24, 1024, 4096, bpe_vocab()
    model = llama_model(n_layer=0, n_embd=n_embd, n_ff=n_ff, n_head=16, n_head_kv=16, dtype="F32")
    model.metadata["llama.block_count"] = U32(n_layer)
    model.tensors.clear()
    output = np.zeros((len(words), n_embd), dtype=np.float32)
    for last in range(len(words)):
        output[following.get(last, words.eos), last] = 1.0
    model.add("token_embd.weight", np.eye(len(words), n_embd, dtype=np.float32), "F32")
    model.add("output.weight", output, "F32")
    model.add("output_norm.weight", np.ones(n_embd, dtype=np.float32), "F32")
    square, wide = (n_embd, n_embd), (n_embd, n_ff)
    shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square,
              "ffn_gate": wide, "ffn_up": wide, "ffn_down": (n_ff, n_embd)}  # fmt: skip
    zeros = {shape: bytes(shape[0] * shape[1] // 32 * 34) for shape in set(shapes.values())}
    for i in range(n_layer):
        for name in ("attn_norm", "ffn_norm"):
            model.add(f"blk.{i}.{name}.weight", np.ones(n_embd, dtype=np.float32), "F32")
        for name, shape in shapes.items():
            model.tensors.append((T(f"blk.{i}.{name}.weight", shape, "Q8_0"), zeros[shape]))
    return model.write(path)


def summary(rounds: list[tuple[Accounting, DraftAccounting]]) -> dict[str, Any]:
    drafted = sum(d.drafted for _, d in rounds)
    stated = [d.speedup_estimate for _, d in rounds if d.speedup_estimate is not None]
    ratios = [(d.decode_tps or 0) / (p.decode_tps or 1) for p, d in rounds]
    return {
        "plain_tps": statistics.median(p.decode_tps or 0 for p, _ in rounds),
        "draft_tps": statistics.median(d.decode_tps or 0 for _, d in rounds),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "stated": statistics.median(stated) if stated else None,
        "drafted_tokens": drafted,
        "acceptance": sum(d.accepted for _, d in rounds) / drafted if drafted else None,
        "drafting_share": statistics.median(d.draft_s / d.decode_s for _, d in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--p-min", type=float)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (arguments.model is None) != arguments.synthetic:
        parser.error("give a MODEL, or --synthetic")
    result = run(arguments)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{result['model']}, drafts by {result['draft']}: {arguments.tokens} tokens, "
        f"{arguments.threads} threads, median of {arguments.rounds} rounds"
    )
    for name, row in result["texts"].items():
        acceptance = f"{row['acceptance']:.0%}" if row["acceptance"] is not None else "-"
        stated = f"{row['stated']:.2f}" if row["stated"] is not None else "-"
        print(
            f"  {name:12} {row['plain_tps']:7.1f} -> {row['draft_tps']:7.1f} tokens/s   "
            f"ratio {row['ratio']:.2f} (stated {stated})   accepted {acceptance} of "
            f"{row['drafted_tokens']}"
        )


if __name__ == "__main__":
    main()
