"""create: a model of the registry with a preset, made by a Modelfile."""
