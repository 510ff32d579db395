"""Cascades whose signals are weighed by what was judged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.errors import DamagedFile, UsageProblem
from localllm.registry import Registry
from localllm.registry.routers import Routers
from localllm.route.cascades.fitting import fit_combiner, needed_logit
from localllm.route.cascades.keeping import open_combiner
from localllm.route.cascades.rows import Signalled, read_signals
from localllm.route.contrast import Contrast
from localllm.route.making import create
from localllm.route.measuring.calibration import fit_logistic
from localllm.route.measuring.curve import auc
from localllm.route.opening import open_router_named
from localllm.route.pool.member import Member
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import CascadeStep, Combiner
from tests.conftest import Done
from tests.route.answering import HI, ask, models, opened

Cli = Callable[..., Done]
STEP = CascadeStep("small", "big", signals=("logprobs", "agreement"), samples=3)
# What the made-up weak member is: agreement tells all, its probabilities tell nothing
TRUTH = {"logprobs": 0.0, "agreement": 5.0}


def made_up(n: int = 1200, seed: int = 0) -> Signalled:
    random = np.random.default_rng(seed)
    signals = {"logprobs": random.beta(8, 2, n), "agreement": random.integers(0, 5, n) / 4}
    logit = 0.3 + sum(w * (signals[name] - 0.7) for name, w in TRUTH.items())
    weak = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    strong = (random.random(n) < 0.9).astype(np.float64)
    prompts = tuple(f"question {seed} {i}" for i in range(n))
    return Signalled(Contrast(prompts, weak, strong, ("",) * n, ("",) * n), signals, 0)


def written(path: Path, rows: Signalled) -> Path:
    lines = []
    for i, prompt in enumerate(rows.contrast.prompts):
        signals = {name: float(values[i]) for name, values in rows.signals.items()}
        lines.append({"prompt": prompt, "outcomes": {"small": rows.contrast.weak[i]},
                      "signals": signals})  # fmt: skip
        lines.append({"prompt": prompt, "outcomes": {"big": rows.contrast.strong[i]}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def mine(registry: Registry, tmp_path: Path) -> Registry:
    models(registry, tmp_path / "staged")
    members = (Member("small", "model", "hi"), Member("big", "model", "loop"))
    create(registry, "mine", RouterSpec(members, (STEP,)))
    return registry


def test_auc_by_hand() -> None:
    positive = np.array([1.0, 0.0, 1.0, 0.0])
    assert auc(np.array([4.0, 1.0, 3.0, 2.0]), positive) == 1.0
    assert auc(np.array([1.0, 1.0, 1.0, 1.0]), positive) == 0.5
    assert auc(np.array([3.0, 2.0, 1.0, 0.0]), positive) == 0.75
    assert math.isnan(auc(np.array([1.0, 2.0]), np.ones(2)))


def test_a_ridge_is_where_its_gradient_vanishes() -> None:
    random = np.random.default_rng(1)
    design, target = random.normal(size=(200, 3)), (random.random(200) < 0.5).astype(float)
    penalty = np.array([0.0, 3.0, 10.0])
    weights = fit_logistic(design, target, penalty)
    p = 1 / (1 + np.exp(-design @ weights))
    assert design.T @ (p - target) + penalty * weights == pytest.approx(np.zeros(3), abs=1e-8)


def test_the_signal_that_tells_is_the_one_that_counts() -> None:
    rows, fresh = made_up(), made_up(4000, 1)
    found = fit_combiner(rows)
    c = found.combiner
    assert c.agreement == pytest.approx(5.0, abs=1.2) and abs(c.logprobs) < 1.0 and c.p_true == 0
    # probabilities that mean what they say, on answers that fitted nothing
    need = 1 / (1 + np.exp(-needed_logit(fresh, c)))
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (need >= low) & (need < high)
        assert 1 - fresh.contrast.weak[inside].mean() == pytest.approx(
            need[inside].mean(), abs=0.06
        )
    assert found.reliability.error < 0.05 < found.reliability_by_hand.error
    truth = auc(fresh.signals["agreement"], fresh.contrast.weak)
    assert found.auc == pytest.approx(truth, abs=0.03) and found.auc > found.auc_by_hand


def test_signals_that_tell_nothing_give_one_probability() -> None:
    rows = made_up()
    blind = Signalled(rows.contrast, {"logprobs": rows.signals["logprobs"],
                                      "p_true": np.full(len(rows), 0.5)}, 0)  # fmt: skip
    found = fit_combiner(blind)
    assert found.combiner.p_true == 0
    need = 1 / (1 + np.exp(-needed_logit(blind, found.combiner)))
    assert need == pytest.approx(np.full(len(need), 1 - rows.contrast.weak.mean()), abs=0.08)
    assert found.auc == pytest.approx(0.5, abs=0.05)


def test_too_little_to_learn_from() -> None:
    rows = made_up(60)
    few = np.arange(60) < 30
    with pytest.raises(UsageProblem, match="too few"):
        fit_combiner(rows.take(few))
    good = Signalled(Contrast(rows.contrast.prompts, np.ones(60), np.ones(60), ("",) * 60,
                              ("",) * 60), rows.signals, 0)  # fmt: skip
    with pytest.raises(UsageProblem, match="60 of 60 answers"):
        fit_combiner(good)


@pytest.mark.parametrize(("line", "error"), [
    ({"prompt": "x", "outcomes": {"small": 1}, "signals": {"logprobs": 2}}, DamagedFile),
    ({"prompt": "x", "outcomes": {"small": 1}, "signals": {"gut": 0.5}}, DamagedFile),
    ({"prompt": "x", "outcomes": {"small": 1}, "signals": [1]}, DamagedFile),
    ({"prompt": "x", "outcomes": {"small": 1, "big": 1}}, UsageProblem),
    ({"prompt": "x", "outcomes": {"small": 1}, "signals": {"logprobs": 1, "agreement": 1}},
     UsageProblem),
])  # fmt: skip
def test_files_that_are_none(tmp_path: Path, line: dict[str, Any], error: type[Exception]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(error):
        read_signals([path], STEP)


def test_trained_calibrated_explained_and_given_away(
    cli: Cli, mine: Registry, tmp_path: Path
) -> None:
    by_hand = cli("route", "explain", "mine", "hello", "--json").data["signals"]
    assert by_hand["n_fitted"] == 0 and by_hand["weights"]["agreement"] == Combiner().agreement
    assert "set by hand" in cli("route", "explain", "mine", "hello").err
    assert cli("route", "calibrate", "mine", "--strong-share", "30%").exit_code == 2
    assert "set by hand" in cli("route", "eval", "mine").err
    assert "route label" in cli("route", "train", "mine").err
    data, rows = written(tmp_path / "a.jsonl", made_up()), made_up()
    assert cli("route", "train", "mine", "--data", data, "--predictor", "lexical").exit_code == 2
    taught = cli("route", "train", "mine", "--data", data, "--json")
    assert taught.exit_code == 0, taught
    assert taught.data["auc"] > taught.data["auc_by_hand"]
    assert taught.data["threshold"] == 0.5
    assert "predicted" in "".join(cli("route", "train", "mine", "--data", data).out)
    done = cli("route", "calibrate", "mine", "--strong-share", "30%", "--json").data
    expected, on = done["expected"], done["on"]
    assert on == "cross-validated"
    assert expected["strong_share"]["value"] == pytest.approx(0.3, abs=0.1)  # five levels
    gap = rows.contrast.strong.mean() - rows.contrast.weak.mean()
    assert expected["quality_strong"] - expected["quality_weak"] == pytest.approx(gap, abs=1e-6)
    fresh = written(tmp_path / "b.jsonl", made_up(300, 5))
    held = cli("route", "calibrate", "mine", "--quality", "90%", "--data", fresh, "--json").data
    assert (held["on"], held["expected"]["n_prompts"]) == ("held out", 300)
    whole = cli("route", "eval", "mine", "--no-plot", "--json")
    assert whole.data["groups"][0]["apgr"]["value"] > 0.6
    found = cli("route", "explain", "mine", "hello", "--run", "--json").data["signals"]
    assert found["answer"] == HI and found["n_fitted"] == 1200
    assert found["measured"]["agreement"] == 1.0  # `hi` can say nothing else
    total = sum(part["amount"] for part in found["parts"])
    assert total == pytest.approx(found["score"])
    assert found["probability"] == pytest.approx(1 / (1 + math.exp(-total)))
    c = open_router_named(mine, "mine").decider.spec.last
    assert isinstance(c, CascadeStep) and c.combiner.agreement > 3
    _given_away(cli, mine, tmp_path, c)


def _given_away(cli: Cli, mine: Registry, tmp_path: Path, step: CascadeStep) -> None:
    for name in ("mine.zip", "mine.toml"):
        assert cli("route", "export", "mine", tmp_path / name).exit_code == 0
        copy = name.replace(".", "-")
        assert cli("route", "import", tmp_path / name, "--name", copy).exit_code == 0
        last = open_router_named(mine, copy).decider.spec.last
        assert isinstance(last, CascadeStep)
        assert last.combiner.agreement == pytest.approx(step.combiner.agreement)
        assert last.threshold == step.threshold
    assert b"question 0 1" not in (tmp_path / "mine.zip").read_bytes()
    # what a conversation does with it: `hi` is as sure as can be
    assert cli("route", "ask", "mine-zip", "hello", "-n", "6", "--json").data["text"] == HI[:6]


def test_a_combiner_of_another_cascade_is_refused(cli: Cli, mine: Registry, tmp_path: Path) -> None:
    assert cli("route", "train", "mine", "--data", written(tmp_path / "a.jsonl", made_up(80)),
               "--json").exit_code == 0  # fmt: skip
    version = Routers(mine).find("mine").current
    assert version.learned is not None and open_combiner(version.learned) is not None
    spec = parse_spec(version.text(), "x")[0]
    assert isinstance(spec.last, CascadeStep) and spec.last.combiner == Combiner()
    path = tmp_path / "mine.zip"
    assert cli("route", "export", "mine", path).exit_code == 0
    import zipfile

    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["router.toml"] = parts["router.toml"].replace(b'"agreement"', b'"p_true"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    done = cli("route", "import", path, "--name", "other")
    assert done.exit_code == 7 and "fitted to" in done.err


def test_label_keeps_the_signals_of_a_cascades_weak_member(
    cli: Cli, mine: Registry, tmp_path: Path
) -> None:
    prompts, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    lines = [{"prompt": f"question {n}", "answer": HI} for n in range(3)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    # an older line of the weak member has none: it is answered again
    old = {"prompt": "question 0", "outcomes": {"small": 0}, "answer": "?"}
    out.write_text(json.dumps(old) + "\n")
    args = ["route", "label", "mine", "--prompts", prompts, "--out", out, "-n", "20", "--ctx",
            "512"]  # fmt: skip
    done = cli(*args, "--json")
    assert done.exit_code == 0, done
    assert (done.data["n_new"], done.data["quality"]) == (6, {"small": 1.0, "big": 0.0})
    found = [json.loads(line) for line in out.read_text().splitlines()]
    signals = [one["signals"] for one in found if "signals" in one]
    assert len(signals) == 3
    for one in signals:
        assert one["agreement"] == 1.0 and 0.99 < one["logprobs"] <= 1
    rows = read_signals([out], STEP)
    assert rows.contrast.weak.tolist() == [1.0] * 3 and rows.n_left_out == 0
    assert cli(*args, "--json").data["n_new"] == 0


def test_a_fitted_combiner_decides(mine: Registry, tmp_path: Path, cli: Cli) -> None:
    """Where good answers are those that are not agreed on, a sure answer is given up."""
    rows = made_up(200)
    turned = {**rows.signals, "agreement": 1 - rows.signals["agreement"]}
    path = written(tmp_path / "a.jsonl", Signalled(rows.contrast, turned, 0))
    assert cli("route", "train", "mine", "--data", path).exit_code == 0
    from localllm.route.answering.client import open_generator

    with open_generator(mine, "mine", n_ctx=256) as router:
        found = ask(router, "hello", max_tokens=12)
        assert found.text() == "abcabcabcabc" and found.routing.escalated
        assert found.routing.probability is not None and found.routing.probability > 0.5
    with opened(mine, RouterSpec(router.opened.spec.members, (STEP,)), "plain") as plain:
        assert not ask(plain, "hello", max_tokens=12).routing.escalated
