"""python recipes/fit_matrix.py MODEL... --gpu "RTX 4060 Ti 16 GB:3" --gpu "GTX 1080 Ti:2"

Which models fit which machines, as CSV: one line a model and machine, with the verdict, the bytes
needed and the longest context. Uses localllm as a library; MODEL is a registered name, a GGUF file,
or a reference that is not downloaded (only its header is fetched).
"""

from __future__ import annotations

import argparse
import csv
import sys

from localllm import config
from localllm.fit.plan import fit, places
from localllm.fit.subjects import subject_of
from localllm.placement import PlanOptions
from localllm.registry import Registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--gpu", action="append", default=[])  # none: this machine
    parser.add_argument("--ctx", type=int, default=8192)
    given = parser.parse_args()

    settings = config.load()
    registry = Registry.open(settings)
    subjects = [
        subject_of(text, registry, settings, given.ctx, lambda said: None) for text in given.models
    ]
    # bandwidth=False: no speeds wanted, so main memory need not be measured
    report = fit(subjects, places(given.gpu), PlanOptions(n_ctx=given.ctx), bandwidth=False)

    table = csv.writer(sys.stdout)
    table.writerow(
        ["model", "machine", "verdict", "need_bytes", "layers_on_gpu", "layers", "longest_ctx"]
    )
    for one in report.fits:
        plan = one.plan
        table.writerow(
            [one.model, one.place, plan.verdict, plan.total_bytes, plan.n_offloaded, plan.n_layers,
             plan.largest_n_ctx]
        )  # fmt: skip


if __name__ == "__main__":
    main()
