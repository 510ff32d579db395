"""GGUF and Hugging Face's transformers: which tensor is which, how its numbers lie, and the
config that a GGUF's keys make. numpy only: torch is the business of who builds the module."""

from localllm.formats.hf.families import (
    FAMILIES,
    Family,
    family_of_arch,
    family_of_model_type,
)
from localllm.formats.hf.layout import PLAIN, Layout
from localllm.formats.hf.plan import Plan, Slot, plan_gguf, slots_of
from localllm.formats.hf.sizes import Sizes, sizes_of_config, sizes_of_gguf

__all__ = [
    "FAMILIES",
    "PLAIN",
    "Family",
    "Layout",
    "Plan",
    "Sizes",
    "Slot",
    "family_of_arch",
    "family_of_model_type",
    "plan_gguf",
    "sizes_of_config",
    "sizes_of_gguf",
    "slots_of",
]
