"""localllm: pull, fit, quantize, benchmark, chat with, tune and route local language models."""

__version__ = "0.1.0"
