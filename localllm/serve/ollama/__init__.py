"""Ollama's API: chat, generate, embed, and the upkeep of models."""
