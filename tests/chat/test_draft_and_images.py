"""chat --draft and --image, through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Done
from tests.support.tiny_mmproj import gemma3_mmproj, picture
from tests.support.tiny_models import tiny_gemma3, tiny_llama

Cli = Callable[..., Done]
GREEDY = ("--temperature", "0", "-n", "12", "--json", "-t", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("drafts")
    tiny_gemma3(made / "text.gguf")
    tiny_llama(made / "llama.gguf")
    gemma3_mmproj(made / "mmproj.gguf")
    for i in (1, 2):
        (made / f"{i}.png").write_bytes(picture(seed=i))
    return made


def test_a_draft_changes_the_account_and_not_the_answer(cli: Cli, folder: Path) -> None:
    model, words = folder / "text.gguf", "one two one two one two one"
    plain = cli("chat", model, words, *GREEDY).data
    assert plain["drafted"] is None
    for draft in (model, "ngram"):
        done = cli("chat", model, words, "--draft", draft, *GREEDY).data
        assert done["text"] == plain["text"]
        assert 0 <= done["accepted"] <= done["drafted"]
        assert done["draft_speedup"] > 0


def test_a_draft_of_another_family_is_refused(cli: Cli, folder: Path) -> None:
    done = cli("chat", folder / "text.gguf", "hi", "--draft", folder / "llama.gguf", *GREEDY)
    assert done.exit_code == 2
    assert "llama.gguf cannot draft for text.gguf" in done.json["error"]["message"]
    assert "--draft ngram" in done.json["error"]["hint"]


def test_images_reach_the_model(cli: Cli, folder: Path) -> None:
    def ask(*options: object) -> Done:
        return cli("chat", folder / "text.gguf", "What?", *options, *GREEDY)

    seeing = ("--mmproj", folder / "mmproj.gguf")
    one, two = (ask("--image", folder / f"{i}.png", *seeing).data for i in (1, 2))
    assert one["text"] != two["text"]
    both = ask("--image", folder / "1.png", "--image", folder / "2.png", *seeing).data
    assert both["prompt_tokens"] > one["prompt_tokens"] + 4
    blind = ask("--image", folder / "1.png")
    assert blind.exit_code == 2
    assert "--mmproj" in blind.json["error"]["hint"]
    wrong = ask("--image", folder / "1.png", "--mmproj", folder / "llama.gguf")
    assert wrong.exit_code == 1
    assert wrong.json["error"]["message"] == "llama.gguf is no projector (mmproj)"
