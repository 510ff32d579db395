"""Grammars that hold a model to a form: JSON schemas as GBNF.

Written here rather than taken from a library: llama-cpp-python's port is of an older llama.cpp
(it drops patterns that are not anchored, number limits, additional names that are spelled with
escapes) and imports the whole binding; llguidance needs a llama.cpp built with it.
"""

from localllm.grammars.schema import json_schema_grammar

__all__ = ["json_schema_grammar"]
