"""A small model from nothing but text: tokenizer, shape, training, and a GGUF that is checked."""
