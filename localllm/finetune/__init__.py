"""Tune a model that was pulled, on data of one's own, and keep what it learned."""
