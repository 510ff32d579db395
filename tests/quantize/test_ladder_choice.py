"""Which rung is recommended, on machines that are not here."""

from __future__ import annotations

import pytest

from localllm.engine.quality.interval import Estimate
from localllm.quantize.ladder.recommend import Candidate, basis, front, recommend
from localllm.quantize.ladder.rungs import Fit
from localllm.quantize.measured.record import Measured, Speed

GIB = 1 << 30


def rung(
    name: str, size: float, bits: float, kld: float | None, verdict: str = "all", *,
    runs: bool = True, tps: tuple[float, float, float] | None = None, ppl: float = 10.0,
) -> Candidate:  # fmt: skip
    speed = None if tps is None else Speed("tg128", tps[1], tps[0], tps[2], 5)
    divergence = None if kld is None else Estimate(kld, None, None, None, None)
    row = Measured(
        f"m:{name}", "made", name, int(size * GIB), bits, Estimate(ppl, None, None, None, None),
        divergence, tg=speed,
    )  # fmt: skip
    return Candidate(row, Fit(verdict, runs, int(1.2 * size * GIB), 8192))


def chosen(*found: Candidate, by: str = "mean_kld") -> str | None:
    best = recommend(found, by, "24 GiB of memory")
    return None if best is None else best.type


def test_the_least_damage_of_what_is_all_on_the_gpu() -> None:
    assert chosen(
        rung("Q8_0", 8, 8.5, 0.001, "partial"), rung("Q5_K_M", 5.5, 5.6, 0.01),
        rung("Q4_K_M", 4.5, 4.8, 0.03),
    ) == "Q5_K_M"  # fmt: skip


def test_under_three_bits_only_where_nothing_else_runs() -> None:
    small = rung("IQ2_M", 2.7, 2.7, 0.4)
    assert chosen(rung("Q4_K_M", 4.5, 4.8, 0.03, "partial"), small) == "Q4_K_M"
    assert chosen(rung("Q4_K_M", 4.5, 4.8, 0.03, "none", runs=True), small) == "IQ2_M"
    assert chosen(rung("Q4_K_M", 4.5, 4.8, 0.03, "none", runs=False), small) == "IQ2_M"


def test_sixteen_bits_gain_nothing_over_eight() -> None:
    rungs = (rung("F16", 16, 16.0, 0.0001, "cpu"), rung("Q8_0", 8, 8.5, 0.001, "cpu"))
    assert chosen(*rungs) == "Q8_0"
    assert chosen(rungs[0]) == "F16"


def test_of_equals_the_smaller_and_of_nothing_none() -> None:
    assert chosen(rung("a", 5, 5.5, 0.01), rung("b", 4, 4.5, 0.01)) == "b"
    assert chosen(rung("a", 5, 5.5, 0.01, "none", runs=False)) is None
    assert chosen() is None


def test_without_divergence_perplexity_decides() -> None:
    rungs = (rung("a", 5, 5.5, None, ppl=10.2), rung("b", 4, 4.5, 0.5, ppl=10.1))
    assert basis([one.measured for one in rungs]) == "perplexity"
    assert chosen(*rungs, by="perplexity") == "b"


def test_the_front_is_what_nothing_beats() -> None:
    rows = [one.measured for one in (
        rung("big", 8, 8.5, 0.001), rung("beaten", 6, 6.5, 0.02), rung("good", 5, 5.5, 0.01),
        rung("small", 3, 3.5, 0.2),
    )]  # fmt: skip
    assert front(rows, "mean_kld") == {"m:big", "m:good", "m:small"}


@pytest.mark.parametrize(
    ("tps", "said"),
    [((38.0, 40.0, 42.0), "generates 2 times as fast"), ((19.0, 21.0, 24.0), None), (None, None)],
)
def test_speed_is_only_claimed_where_the_intervals_do_not_meet(
    tps: tuple[float, float, float] | None, said: str | None
) -> None:
    found = (rung("Q8_0", 8, 8.5, 0.001, tps=(19.0, 20.0, 21.0)),
             rung("Q4_K_M", 4, 4.8, 0.03, tps=tps))  # fmt: skip
    best = recommend(found, "mean_kld", "24 GiB of memory")
    assert best is not None and best.smaller is not None
    assert best.smaller.startswith("Q4_K_M is 50 % smaller")
    assert ("times as fast" in best.smaller) is (said is not None)
    assert said is None or said in best.smaller
    assert "9.6 GiB of 24 GiB of memory" in best.why
