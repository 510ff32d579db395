"""How the command line's table becomes commands: each a line of help until it is called.

An Entry is a command, a group of commands, or a group with a default: `localllm bench MODEL`
runs the default, `localllm bench history` a command of the group. A word that names both is the
command; `localllm bench run history` then means the model (`run` is the default by name).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

DEFAULT = "run"


class Entry(NamedTuple):
    """One line of the table. `target` is module:function below localllm, "" for a group without
    a default; `commands` are the group's, empty for a plain command."""

    name: str
    target: str
    help: str
    panel: str = "Commands"
    commands: tuple[Entry, ...] = ()

    @property
    def own(self) -> tuple[Entry, ...]:
        """The commands of the group, the default among them under its name."""
        if not self.commands or not self.target:
            return self.commands
        text = f"What `{self.name} ...` does, for names that are commands here too."
        return (Entry(DEFAULT, self.target, text, self.panel), *self.commands)


def leaves(entries: Iterable[Entry], before: str = "") -> Iterator[tuple[str, Entry]]:
    """Every command that does something, as the user types it: ("bench", entry), ("bench
    history", entry) ... A default stands under its group's name alone."""
    for entry in entries:
        if entry.target:
            yield before + entry.name, entry
        yield from leaves(entry.commands, f"{before}{entry.name} ")


def lazy(entry: Entry) -> Any:
    """The command or group of an entry. Nothing of it is imported."""
    return LazyGroup(entry) if entry.commands else LazyCommand(entry)


def load(entry: Entry) -> Any:
    """Import a command's room and build its Typer command."""
    from localllm.ui.command import command

    module, _, function = entry.target.partition(":")
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(entry.name, epilog=_epilog(entry))(
        command(getattr(importlib.import_module(f"localllm.{module}"), function))
    )
    return typer.main.get_command(app)


def _epilog(entry: Entry) -> str | None:
    """For the help of a group's default: the other commands."""
    if not entry.commands:
        return None
    lines = [f"[bold]{entry.name} {one.name}[/bold]: {one.help}" for one in entry.own]
    return "\n\n".join(["Commands:", *lines])


class LazyCommand(TyperCommand):
    """A line of help until it is called; then the real command."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.help, rich_help_panel=entry.panel)
        self._entry = entry

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return load(self._entry).make_context(*args, **kwargs)


class LazyGroup(TyperGroup):
    """Commands under one word; what names none of them goes to the default, if there is one."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(
            name=entry.name,
            help=entry.help,
            rich_help_panel=entry.panel,
            rich_markup_mode="rich",
            no_args_is_help=True,
            commands={one.name: lazy(one) for one in entry.own},
            context_settings={"help_option_names": ["--help", "-h"]},
        )
        self._entry = entry

    def list_commands(self, ctx: Any) -> list[str]:
        return [one.name for one in self._entry.own]

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **kw: Any) -> Any:
        named = args and args[0] in self.commands
        completing = kw.get("resilient_parsing") and not args
        if named or completing or not self._entry.target:
            return super().make_context(info_name, args, *rest, **kw)
        return load(self._entry).make_context(info_name, args, *rest, **kw)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The commands, and whatever the default takes in their place."""
        found = super().shell_complete(ctx, incomplete)
        if not self._entry.target:
            return found
        default = load(self._entry)
        if incomplete.startswith("-"):
            return default.shell_complete(ctx, incomplete)
        arguments = [p for p in default.params if p.param_type_name == "argument"]
        return found + [item for p in arguments[:1] for item in p.shell_complete(ctx, incomplete)]
