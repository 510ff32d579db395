"""Recipes: the files that ship with the program, what they may say, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from localllm.errors import FileGone, UsageProblem
from localllm.finetune.recipe import (
    Recipe,
    held_out,
    merged,
    option_words,
    read_recipe,
    to_toml,
    with_objective,
    words_of,
)
from tests.conftest import Done

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("finetune_*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_read_and_says_how_it_is_run(path: Path) -> None:
    recipe = merged(read_recipe(path), {})
    assert recipe.base is not None
    assert recipe.data
    first = path.read_text("utf-8").splitlines()[0]
    assert first == f"# localllm finetune --recipe recipes/{path.name}"


def test_there_are_shipped_recipes() -> None:
    assert len(SHIPPED) >= 3


def test_a_written_recipe_is_read_back_the_same(tmp_path: Path) -> None:
    recipe = Recipe(
        base='a "quoted" base', data=("x.jsonl", "ä.csv"), rank=4, lr=1e-5, alpha=8.0, system="é\nb"
    )
    path = tmp_path / "r.toml"
    path.write_text(to_toml(recipe), "utf-8")
    assert merged(read_recipe(path), {}) == recipe


def test_the_command_line_wins_over_the_file() -> None:
    recipe = merged({"rank": 4, "epochs": 2, "targets": ["mlp"]}, {"rank": 8, "epochs": None})
    assert (recipe.rank, recipe.epochs, recipe.targets) == (8, 2.0, ("mlp",))


def test_data_beside_the_recipe_is_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}")
    (tmp_path / "r.toml").write_text('data = ["mine.jsonl", "elsewhere.jsonl"]')
    found = read_recipe(tmp_path / "r.toml")
    assert found["data"] == [str(tmp_path / "mine.jsonl"), "elsewhere.jsonl"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rank = 'x'", "rank"), ("rnak = 4", "rnak"), ("epochs = true", "epochs"),
        ("targets = 'all'", "targets"), ("lr = nan", "lr"), ("rank = 1.5", "rank"), ("= 3", "TOML"),
        ("method = 'qlora2'", "method"), ("held_out = '150%'", "held-out"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageProblem, match=named):
        merged(read_recipe(path), {})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"alpha": 0}, "--alpha 0 "),
        ({"method": "full", "adapter": "a"}, "--method full cannot go on"),
        ({"method": "dora", "adapter": "a"}, "--method dora cannot go on"),
        ({"method": "dora", "sample_every": 5}, "--sample-every"),
        ({"method": "full", "sample_every": 5}, "--sample-every"),
        ({"method": "full", "rank": 8}, "--rank"),
        ({"method": "full", "alpha": 32.0}, "--alpha"),
        ({"method": "full", "targets": ["mlp"]}, "--targets"),
        ({"method": "full", "base_weights": "quantized"}, "--base-weights"),
        ({"patience": 2, "held_out": "0"}, "--patience"),
        ({"patience": 2, "held_out": "0%"}, "--patience"),
    ],
)
def test_options_that_would_do_nothing_are_refused(given: dict[str, object], named: str) -> None:
    with pytest.raises(UsageProblem, match=named):
        merged({}, given)


@pytest.mark.parametrize(
    ("given", "preferences", "named"),
    [
        ({"beta": 0.5}, False, "--beta"),
        ({"beta": 0.5, "objective": "orpo"}, True, "--beta"),
        ({"orpo_weight": 0.5}, True, "--orpo-weight"),
    ],
)
def test_options_of_another_objective_are_refused(
    given: dict[str, object], preferences: bool, named: str
) -> None:
    with pytest.raises(UsageProblem, match=named):
        with_objective(merged({}, given), preferences)


def test_what_goes_together_is_not_refused() -> None:
    assert with_objective(merged({}, {"beta": 0.5}), True).objective == "dpo"
    assert merged({}, {"method": "full", "rank": 16, "targets": ["all"]}).method == "full"
    assert merged({}, {"method": "rslora", "adapter": "a", "sample_every": 5}).sample_every == 5
    assert merged({}, {"patience": 2, "held_out": "3"}).patience == 2
    assert merged({}, {"method": "full", "sample_every": 0}).method == "full"


def test_the_readme_counts_the_architectures() -> None:
    from localllm.finetune.model import families

    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert f"Text models of {len(families())} architectures" in readme


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileGone):
        read_recipe(tmp_path / "no.toml")


def test_held_out_is_a_share_or_a_count() -> None:
    assert held_out("5%") == (0.05, None)
    assert held_out("20") == (0.0, 20)
    for wrong in ("5", "0%"):
        held_out(wrong)
    for wrong in ("", "100%", "-1", "half", "1.5"):
        with pytest.raises(UsageProblem):
            held_out(wrong)


def test_every_key_is_an_option_of_the_command() -> None:
    import inspect

    from localllm.finetune.cli import finetune_command

    options = set(inspect.signature(finetune_command).parameters)
    assert {field.name for field in fields(Recipe)} <= options


def test_the_command_that_is_kept_means_the_same_recipe(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune import cli as command

    recipe = Recipe(
        base="tiny", data=("a b.jsonl", "c.csv"), name="t:x", column=("prompt=q", "answer=a"),
        from_chats=True, from_votes=True, system="Be kind; 'now'.", targets=("attention", "mlp"),
        adapter="t:old", any_base=True, lr=3e-5, epochs=0.5, steps=7, held_out="20", seed=3,
        keep="last", sample_prompt=("one", "two"), merge="Q6_K", bad_rows="error", precision="f32",
    )  # fmt: skip
    asked = []
    monkeypatch.setattr(command, "finetune", lambda given, *_: asked.append(given.recipe))
    assert cli(*words_of(recipe)[1:]).exit_code == 0
    assert asked == [recipe]
    assert words_of(Recipe(base="b")) == ["localllm", "finetune", "b"]


def test_the_command_of_a_training_from_nothing_means_the_same_recipe(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune import train_cli as command
    from localllm.finetune.scratch.recipe import TrainRecipe

    recipe = TrainRecipe(
        name="field", data=("a b/", "c.csv"), column=("text=said",), limit=9, held_out="20",
        width=64, layers=1, heads=2, type="BF16", steps=30, batch_tokens=2048, vocab_size=512,
        dropout=0.0, sample_prompt=("one", "two"), optimizer="adamw", keep="last",
    )  # fmt: skip
    asked = []
    monkeypatch.setattr(command, "train", lambda given, *_: asked.append(given.recipe))
    words = option_words(recipe, "name")
    assert cli("train", *words).exit_code == 0
    assert asked == [recipe]
    assert option_words(TrainRecipe(), "name") == []
