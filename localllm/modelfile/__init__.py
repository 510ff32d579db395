"""Ollama's Modelfile, read and written, and its Go templates as chat templates."""

from localllm.modelfile.modelfile import PARAMETERS, Modelfile, parse
from localllm.modelfile.translate import chat_template

__all__ = ["PARAMETERS", "Modelfile", "chat_template", "parse"]
