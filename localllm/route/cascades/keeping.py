"""A fitted combiner on disk, as numbers beside the router's description (`cascade.npz`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from localllm.errors import DamagedFile, UsageProblem
from localllm.registry.routers import KeptVersion
from localllm.route.cascades.fitting import FittedCombiner
from localllm.route.cascades.rows import Signalled
from localllm.route.contrast import Contrast
from localllm.route.learned import CASCADE, TESTED, Tested, digests, pack_tested
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import SIGNALS, CascadeStep, Combiner
from localllm.route.routerfile import pack_arrays, read_arrays
from localllm.route.training import languages
from localllm.route.unpacking import CheckedArrays


@dataclass(frozen=True)
class KeptCombiner:
    """`means` of the signals over the `n_rows` answers that it was fitted to."""

    combiner: Combiner
    means: Mapping[str, float]
    n_rows: int
    weak: str
    strong: str


def pack_cascade(rows: Signalled, fitted: FittedCombiner, step: CascadeStep) -> dict[str, bytes]:
    """The files, by name: the weights, and what cross-validation gave for every row."""
    names = tuple(rows.signals)
    arrays = {
        "signals": np.array(names, dtype=np.str_),
        "weights": np.array([getattr(fitted.combiner, name) for name in names]),
        "means": np.array([fitted.means[name] for name in names]),
        "intercept": np.array(fitted.combiner.intercept),
        "members": np.array([step.weak, step.strong], dtype=np.str_),
        "n_rows": np.array([len(rows)], dtype=np.int64),
    }
    return {CASCADE: pack_arrays(arrays), TESTED: pack_tested(tested_rows(rows.contrast, fitted))}


def tested_rows(contrast: Contrast, fitted: FittedCombiner) -> Tested:
    return Tested(
        fitted.held_out, contrast.weak, contrast.strong,
        np.array([len(prompt) for prompt in contrast.prompts], dtype=np.int64),
        contrast.benchmarks, tuple(languages(contrast)), digests(contrast.prompts),
    )  # fmt: skip


def open_combiner(folder: Path) -> KeptCombiner | None:
    """None where nothing was fitted. Raises DamagedFile."""
    path = folder / CASCADE
    if not path.exists():
        return None
    held = CheckedArrays(read_arrays(path))
    try:
        names, members = held.names("signals"), held.names("members")
        if not names or set(names) - set(SIGNALS) or len(members) != 2:
            raise DamagedFile("it does not weigh the signals of two members")
        weights, means = held.floats("weights", len(names)), held.floats("means", len(names))
        unused = dict.fromkeys(SIGNALS, 0.0)
        found = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
        combiner = Combiner(held.number("intercept"), **{**unused, **found})
        (n_rows,) = held.counts("n_rows", 1, 2**53)
    except (DamagedFile, UsageProblem) as problem:
        raise DamagedFile(f"{path}: {problem.message}") from problem
    return KeptCombiner(
        combiner, {name: float(mean) for name, mean in zip(names, means, strict=True)},
        int(n_rows), members[0], members[1],
    )  # fmt: skip


def check_combiner(kept: KeptCombiner, spec: RouterSpec) -> None:
    """Raises DamagedFile for one that was fitted to another cascade."""
    step = spec.last
    fits = isinstance(step, CascadeStep) and (kept.weak, kept.strong) == (step.weak, step.strong)
    if not (fits and isinstance(step, CascadeStep) and set(step.signals) == set(kept.means)):
        raise DamagedFile(
            f"its cascade was fitted to {', '.join(kept.means)} of {kept.weak}, before "
            f"{kept.strong}, and the router's is another"
        )


def with_fitted(spec: RouterSpec, version: KeptVersion) -> RouterSpec:
    """With the fitted weights in place of those of the description, where there are such.
    Raises DamagedFile."""
    kept = None if version.learned is None else open_combiner(version.learned)
    step = spec.last
    if kept is None or not isinstance(step, CascadeStep):
        return spec
    check_combiner(kept, spec)
    return replace(spec, steps=(*spec.steps[:-1], replace(step, combiner=kept.combiner)))
