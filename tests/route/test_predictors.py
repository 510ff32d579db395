"""Predictors learn what is there, explain what they say, and refuse what teaches nothing."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.route.contrast import MIN_PROMPTS, Contrast, joined, merged
from localllm.route.measuring.crossval import Train, cross_validate
from localllm.route.panel import Panel
from localllm.route.predictors.embedded import occlusion, trainer
from localllm.route.predictors.factors import train_factors
from localllm.route.predictors.lexical import Lexical, train_lexical
from localllm.route.predictors.similarity import train_bradley_terry, train_neighbours
from localllm.route.text.words import terms_of
from localllm.route.training import TRAINERS, evaluate, train_router
from tests.route.known import NEED, known


class Hashed:
    """A real embedding, if a poor one: words hashed to 64 dimensions."""

    name = "hashed-64"
    n_dims = 64

    def embed(self, texts: object) -> np.ndarray:
        rows = np.zeros((len(texts), 64), dtype=np.float32)  # type: ignore[arg-type]
        for i, text in enumerate(texts):  # type: ignore[var-annotated, arg-type]
            for term in terms_of(text):
                if " " not in term:
                    rows[i, crc32(term.encode()) % 64] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


TRAIN: dict[str, Train] = {**TRAINERS, "embedded": trainer(Hashed())}


@pytest.mark.parametrize("name", TRAIN)
def test_held_out_prompts_of_the_needy_field_come_first(name: str) -> None:
    contrast = known(400)
    held_out = cross_validate(contrast, TRAIN[name])
    measured = evaluate(contrast, held_out, resamples=200)["made-up"]
    # truth: 0.7 of one third, 0.1 and 0.05 of the others; ordering fields gives about 0.80
    best = {"logic": 2.0, "history": 1.0, "cooking": 0.0}
    ideal = evaluate(
        contrast,
        replace(held_out, scores=np.array([best[d] for d in contrast.domains])),
        resamples=10,
    )["made-up"].apgr.value
    assert measured.apgr.value > ideal - 0.08
    assert measured.against["random"].low > 0.1


@pytest.mark.parametrize("name", TRAIN)
def test_parts_add_up_to_the_score(name: str) -> None:
    predictor = TRAIN[name](known(200))
    for prompt in ("theorem proof of 12 lemmas, if any?", "butter", "聞いたことのない言語", "\n\n"):
        if name == "embedded" and not terms_of(prompt):
            continue  # a text without words has no direction
        total = sum(part.amount for part in predictor.parts(prompt))
        assert total == pytest.approx(float(predictor.scores([prompt])[0]), abs=1e-9)


@pytest.mark.parametrize("name", TRAIN)
def test_data_that_teach_nothing_are_refused(name: str) -> None:
    contrast = known(90)
    ten = contrast.take(np.arange(10))
    with pytest.raises(UsageProblem, match="10 prompts are too few"):
        TRAIN[name](ten)
    never = Contrast(
        contrast.prompts, np.ones(90), np.ones(90), contrast.domains, contrast.benchmarks
    )
    with pytest.raises(UsageProblem, match="never better"):
        train_router(never, "a", "b", TRAIN[name])


@pytest.mark.parametrize("name", TRAIN)
def test_the_fewest_prompts_that_are_taken_are_enough_for_the_folds_as_well(name: str) -> None:
    trained = train_router(known(MIN_PROMPTS), "a", "b", TRAIN[name])
    assert (trained.n_prompts, len(trained.held_out.scores)) == (MIN_PROMPTS, MIN_PROMPTS)


@pytest.mark.parametrize("name", TRAIN)
def test_models_that_differ_on_one_prompt_alone_teach_next_to_nothing(name: str) -> None:
    contrast = known(60)
    strong = np.ones(60)
    weak = np.where(np.arange(60) == 7, 0.0, 1.0)
    one = Contrast(contrast.prompts, weak, strong, contrast.domains, contrast.benchmarks)
    router = train_router(one, "a", "b", TRAIN[name]).router
    assert all(p < 0.2 for p in router.probabilities(contrast.prompts))  # one in 60 needs it


def test_words_and_domains_of_an_explanation_are_the_ones_that_matter() -> None:
    predictor = train_lexical(known(600))
    parts = predictor.parts("what theorem and lemma and axiom is best known?")
    domains = {part.name: part.amount for part in parts if part.what == "domain"}
    assert max(domains, key=lambda name: domains[name]) == "logic"
    assert predictor.likely_domain("simmer garlic and butter")[0] == "cooking"  # type: ignore[index]
    assert {part.name for part in parts if part.what == "domain"} == set(NEED)


def test_load_counts_for_more_in_one_field_than_in_another() -> None:
    """Of logic the strong model is needed for long prompts, of cooking for short ones."""
    contrast = known(600)
    long = np.arange(600) % 2 == 0
    more = " and, if more, then less of it" * 12
    prompts = [
        prompt + more * bool(is_long)
        for prompt, is_long in zip(contrast.prompts, long, strict=True)
    ]
    field = np.array(contrast.domains)
    needed = np.where(field == "logic", long, np.where(field == "cooking", ~long, False))
    weak = 1.0 - needed
    predictor = train_lexical(replace(contrast, prompts=tuple(prompts), weak=weak))
    slope = dict(zip(predictor.domains, predictor.domain_slope, strict=True))
    assert slope["logic"] > slope["history"] > slope["cooking"]
    for words, sign in (("theorem lemma axiom proof", 1), ("butter garlic flour oven", -1)):
        shorter, longer = predictor.scores([words + "?", words + "?" + more])
        assert np.sign(longer - shorter) == sign
        parts = predictor.parts(words + "?" + more)
        assert np.sign(sum(part.amount for part in parts if part.what == "load")) == sign


def test_a_form_that_was_never_seen_is_ordered_by_load_alone() -> None:
    predictor = train_lexical(known(300))
    easy, hard = "料理", "料理" * 200 + "、もし12のうち5が" * 30
    assert {part.what for part in predictor.parts(hard)} == {"average", "load"}
    low, high = predictor.scores([easy, hard])
    assert low < high  # more to read never makes the strong model less needed


def test_a_form_with_few_prompts_is_trusted_little() -> None:
    few = known(20, seed=1)
    japanese = replace(few, prompts=tuple(f"日本語の質問{i}です" for i in range(20)))
    predictor = train_lexical(joined([known(300), japanese]))
    trust = dict(zip(predictor.forms, predictor.trust, strict=True))
    assert trust == pytest.approx({"free/latin": 300 / 400, "free/japanese": 20 / 120})


def test_megabyte_prompts_and_empty_words_are_scored() -> None:
    predictor = train_lexical(known(120))
    scores = predictor.scores(["theorem " * 200_000, "", "?" * 100_000])
    assert np.isfinite(scores).all()


def test_the_order_of_training_prompts_does_not_matter() -> None:
    contrast = known(150)
    mixed = contrast.take(np.random.default_rng(0).permutation(150))
    prompts = ["theorem proof", "garlic butter", "empire"]
    first, second = (train_lexical(c).scores(prompts) for c in (contrast, mixed))
    assert first == pytest.approx(second, abs=1e-4)


def test_repeated_and_contradicting_prompts_become_their_mean() -> None:
    contrast = Contrast(
        ("a", "b", "a"), np.array([0.0, 1, 1]), np.array([1.0, 1, 0]), ("", "", ""), ("x",) * 3
    )
    once, differ = merged(contrast)
    assert once.prompts == ("a", "b") and differ == 1
    assert once.weak.tolist() == [0.5, 1.0] and once.strong.tolist() == [0.5, 1.0]


def test_equal_prompts_are_never_in_training_and_held_out_together() -> None:
    doubled = joined([known(60), known(60, benchmark="other")])
    seen: list[set[str]] = []

    def train(contrast: Contrast) -> Lexical:
        seen.append(set(contrast.prompts))
        return train_lexical(contrast)

    held_out = cross_validate(doubled, train)
    for fold, trained in enumerate(seen):
        out = {doubled.prompts[i] for i in np.flatnonzero(held_out.folds == fold)}
        assert out and not out & trained


def test_neighbours_by_hand() -> None:
    contrast = known(60)
    predictor = train_neighbours(contrast)
    nearest = predictor.nearest(contrast.prompts[7], 1)[0]
    assert nearest[0] == contrast.prompts[7][:120] and nearest[1] == pytest.approx(1)
    assert nearest[2] == contrast.gap[7]


def test_bradley_terry_is_the_weighted_share_of_wins() -> None:
    contrast = known(60)
    predictor = train_bradley_terry(contrast)
    vectors = np.zeros((60, len(predictor.vocabulary.terms)))
    for i, prompt in enumerate(contrast.prompts):
        columns, values = predictor.vocabulary.row(prompt)
        vectors[i, columns] = values
    columns, values = predictor.vocabulary.row("theorem proof of the empire")
    cosine = vectors[:, columns] @ values
    weight = 10 ** (1 + cosine / cosine.max())
    wins = (weight * (contrast.gap > 0)).sum() + 0.5 * (weight * (contrast.gap == 0)).sum()
    expected = 2 * wins / weight.sum() - 1
    assert predictor.scores(["theorem proof of the empire"])[0] == pytest.approx(expected)


def test_factors_of_five_models_with_missing_answers() -> None:
    """Two kinds of models, each good at one field: the others' answers tell which is which."""
    contrast = known(300)
    random = np.random.default_rng(2)
    good = np.array([domain == "logic" for domain in contrast.domains], dtype=float)
    truth = np.stack([good, good, 1 - good, 1 - good, np.full(300, 0.5)], axis=1)
    quality = (random.random((300, 5)) < 0.1 + 0.8 * truth).astype(float)
    quality[random.random((300, 5)) < 0.4] = np.nan
    panel = Panel(contrast.prompts, tuple("abcde"), quality, contrast.domains, contrast.benchmarks)
    factors = train_factors(panel, "c", "a")
    fresh = known(90, seed=9)
    found = factors.qualities(fresh.prompts)
    logic = np.array([domain == "logic" for domain in fresh.domains])
    in_logic, elsewhere = found[logic].mean(axis=0), found[~logic].mean(axis=0)
    assert in_logic[:2].min() > in_logic[2:4].max() + 0.1
    assert elsewhere[2:4].min() > elsewhere[:2].max() + 0.1
    assert factors.scores(fresh.prompts) == pytest.approx(found[:, 0] - found[:, 2])
    with pytest.raises(UsageProblem, match="no answer"):
        silent = replace(panel, quality=np.column_stack([quality[:, :4], np.full(300, np.nan)]))
        train_factors(silent, "c", "a")


def test_occlusion_measures_each_sentence() -> None:
    predictor = train_lexical(known(600))
    prompt = "theorem lemma axiom proof. butter garlic flour oven."
    sentences = occlusion(predictor, prompt)
    assert "".join(sentence for sentence, _ in sentences) == prompt
    whole = predictor.scores([prompt])[0]
    assert sentences[0][1] == pytest.approx(
        whole - predictor.scores([" butter garlic flour oven."])[0]
    )
    assert sentences[0][1] > sentences[1][1]


def test_probabilities_of_a_trained_router_are_calibrated() -> None:
    trained = train_router(known(900), "small", "large")
    assert trained.reliability.error < 0.06
    assert trained.reliability.brier < trained.reliability.brier_constant
    fresh = known(900, seed=7)
    probabilities = trained.router.probabilities(fresh.prompts)
    logic = np.array([domain == "logic" for domain in fresh.domains])
    assert probabilities[logic].mean() == pytest.approx(0.7, abs=0.1)
    assert probabilities[~logic].mean() == pytest.approx(0.075, abs=0.06)


def test_labels_without_any_sense_give_no_confidence() -> None:
    noise = known(300)
    random = np.random.default_rng(3)
    senseless = replace(noise, weak=(random.random(300) < 0.7).astype(float))
    trained = train_router(senseless, "small", "large")
    probabilities = trained.router.probabilities(noise.prompts)
    assert np.ptp(probabilities) < 0.35
    assert abs(probabilities.mean() - 0.3) < 0.08
