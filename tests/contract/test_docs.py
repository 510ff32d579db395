"""The pages say what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from localllm import cli, config
from localllm.errors import ExitCode

ROOT = Path(__file__).parents[2]


def test_the_page_of_commands_is_fresh() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["page"]()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page, (
        "run: python docs/generate.py"
    )


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    codes = {int(m) for m in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes == {int(code) for code in ExitCode}


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name, (variables, _, _) in config._SETTINGS.items():
        assert f"`{name}`" in text
        for variable in variables:
            assert f"`{variable}`" in text


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{n}" for n in ("cli.md", "fit.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_readme_names_only_commands_that_are_there() -> None:
    names = {entry.name for entry in cli.COMMANDS}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:\$ |\(|`|bin/)localllm ([a-z]+)", text))
    assert used <= names, used - names
