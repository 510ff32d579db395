"""How well a router tells prompts apart that it never saw: APGR on MMLU and GSM8K, as JSON.

    python benchmarks/routing.py --train FILE --test FILE

Both files are JSON lines: `prompt, source ("mmlu" or "gsm8k"), subject, weak_correct,
strong_correct`, and where labels were corrected `weak_correct_fix, strong_correct_fix`. One
method, fixed in advance: the default predictor (`lexical`) with its constants as they stand. It
trains on the labels as recorded; the corrected ones are only scored, unless `fix_trained`, which
trains on them as well. A prompt of the test file that the training file has too is left out and
counted.

`mmlu`, `gsm8k`, `gsm8k_fix`: trained on all of FILE. `transfer`: trained on its MMLU prompts
alone, scored on GSM8K. Every difference is APGR less that of prompt length on the same prompts,
its interval by paired bootstrap. Latency is one decision at a time, after a warm-up, as wall
time and as processor time (the one to read where other work runs). OMP_NUM_THREADS=1 keeps it
to one core. `embedded` has the same of the predictor on embeddings, where its package is
installed; its figures are beside the method, not the method.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from localllm.errors import MissingExtra
from localllm.route.contrast import Contrast
from localllm.route.embedders import static_embedder
from localllm.route.measuring.intervals import Measured
from localllm.route.predictors.embedded import trainer
from localllm.route.predictors.lexical import train_lexical
from localllm.route.reading.jsonl import Labels, read_contrast
from localllm.route.router import Router
from localllm.route.training import evaluate_on, train_router

CORRECTED = Labels("weak_correct_fix", "strong_correct_fix")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--latency-prompts", type=int, default=1000)
    options = parser.parse_args()
    train = read_contrast(options.train)
    test, n_shared = _unseen(read_contrast(options.test), train)
    if not len(test):
        parser.error("every prompt of --test is in --train: nothing is left to judge by")
    corrected = _unseen(read_contrast(options.test, CORRECTED, skip_without=True), train)[0]

    start = time.perf_counter()
    trained = train_router(train, "weak", "strong")
    train_s = time.perf_counter() - start
    router = trained.router

    result: dict[str, Any] = {
        "predictor": router.predictor.kind,
        "n_train": len(train),
        "n_test": len(test),
        "n_test_also_in_training_left_out": n_shared,
        "train_s": round(train_s, 2),  # with the five-fold calibration
        "calibration_error": round(trained.reliability.error, 4),
    }
    for name, data in (("mmlu", test), ("gsm8k", test), ("gsm8k_fix", corrected)):
        part = data.of_benchmark(name.removesuffix("_fix"))
        if len(part):
            result[name] = _figures(evaluate_on(router.probabilities(part.prompts), part))
    gsm8k, mmlu = test.of_benchmark("gsm8k"), train.of_benchmark("mmlu")
    if len(gsm8k) and len(mmlu):
        alone = train_lexical(mmlu)
        result["transfer"] = _figures(evaluate_on(alone.scores(gsm8k.prompts), gsm8k))
        fixed = corrected.of_benchmark("gsm8k")
        if len(fixed):
            result["transfer_fix"] = _figures(evaluate_on(alone.scores(fixed.prompts), fixed))
    result |= _fix_trained(options.train, corrected)
    prompts = test.prompts[: options.latency_prompts]
    result["decision_ms"] = _latency(router, prompts, time.perf_counter)
    result["decision_cpu_ms"] = _latency(router, prompts, time.process_time)
    result["embedded"] = _embedded(train, test, prompts)
    result["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    print(json.dumps(result, indent=2))


def _fix_trained(path: Path, corrected: Contrast) -> dict[str, Any]:
    """GSM8K by a predictor that trained on corrected labels where there are such."""
    train, part = read_contrast(path, CORRECTED, or_recorded=True), corrected.of_benchmark("gsm8k")
    if not len(part):
        return {}
    return {"fix_trained": _figures(evaluate_on(train_lexical(train).scores(part.prompts), part))}


def _embedded(train: Contrast, test: Contrast, prompts: tuple[str, ...]) -> dict[str, Any] | None:
    """None where the embedding model is not installed."""
    try:
        embedder = static_embedder()
    except MissingExtra:
        return None
    router = train_router(train, "weak", "strong", trainer(embedder)).router
    found: dict[str, Any] = {}
    for name in ("mmlu", "gsm8k"):
        part = test.of_benchmark(name)
        if len(part):
            found[name] = _figures(evaluate_on(router.probabilities(part.prompts), part))
    found["decision_ms"] = _latency(router, prompts, time.perf_counter)
    found["decision_cpu_ms"] = _latency(router, prompts, time.process_time)
    return found


def _unseen(test: Contrast, train: Contrast) -> tuple[Contrast, int]:
    known = set(train.prompts)
    fresh = np.array([prompt not in known for prompt in test.prompts], dtype=np.bool_)
    return test.take(fresh), int((~fresh).sum())


def _figures(measured: Measured) -> dict[str, Any]:
    def rounded(figure: Any) -> list[float]:
        return [round(figure.value, 4), round(figure.low, 4), round(figure.high, 4)]

    length = measured.against["length"]
    return {
        "n": measured.n_prompts,
        "quality_weak": round(measured.quality_weak, 4),
        "quality_strong": round(measured.quality_strong, 4),
        "apgr": rounded(measured.apgr),
        "cpt50": rounded(measured.cpt50),
        "cpt80": rounded(measured.cpt80),
        "apgr_less_length": rounded(length),
        "p_value": round(length.p_value, 4),
    }


def _latency(
    router: Router, prompts: tuple[str, ...], clock: Callable[[], float]
) -> dict[str, float]:
    for prompt in prompts[:20]:
        router.decide(prompt, 0.5)
    times = []
    for prompt in prompts:
        start = clock()
        router.decide(prompt, 0.5)
        times.append((clock() - start) * 1e3)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3)}


if __name__ == "__main__":
    main()
