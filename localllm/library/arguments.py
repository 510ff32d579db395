"""The argument that names a model, with completion of the names in the registry."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.errors import LocalLLMError


def complete_model(incomplete: str) -> list[str]:
    """Names and aliases that begin with `incomplete`. Never fails: the shell is waiting."""
    from localllm.registry import Registry

    try:
        names = Registry.open().names()
    except LocalLLMError:
        return []
    wanted = incomplete.casefold()
    return [name for name in names if name.casefold().startswith(wanted)]


_HELP = "Name, alias or reference of a model, or the path of a file."

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help=_HELP, autocompletion=complete_model)
]
ModelNames = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help=_HELP, autocompletion=complete_model)
]
