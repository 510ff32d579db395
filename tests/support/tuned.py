"""A model and an adapter that was made from it, in a registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from localllm.registry import Lineage, Model, Registry
from tests.conftest import arrival
from tests.support.tiny_models import tiny_lora


def registered_adapter(
    registry: Registry, base: Model, folder: Path, *, name: str = "base:tuned", **lora: Any
) -> Model:
    """`tiny_lora` for `base`, as `finetune` registers what it made."""
    folder.mkdir(parents=True, exist_ok=True)
    made = arrival("a", tiny_lora(folder / "lora.gguf", **lora), format="adapter")
    parents = ((base.name, base.weights[0].sha256),)
    return registry.add(
        replace(
            made,
            name=name,
            architecture="llama",
            lineage=Lineage("finetune", parents, "localllm finetune"),
            files=(replace(made.files[0], role="adapter"),),
        )
    )
