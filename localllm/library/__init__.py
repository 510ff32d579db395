"""Between files and models: what a file is, which model a name or path means, where a derived
model goes. Combines `formats` and `registry`; every room starts here."""

from localllm.library.arguments import ModelName, ModelNames
from localllm.library.describe import Description, describe, header_of, stray
from localllm.library.find import find_gguf, find_model

__all__ = [
    "Description",
    "ModelName",
    "ModelNames",
    "describe",
    "find_gguf",
    "find_model",
    "header_of",
    "stray",
]
