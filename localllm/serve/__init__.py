"""serve: one process, one port; OpenAI's and Ollama's APIs over the engine's scheduler.

`web` is what every request passes through (limits, keys, errors, streams), `resident` which
models there are and how they come into memory, `answering` a request from its words to its
tokens, `openai` and `ollama` the two languages it may be asked in.
"""
