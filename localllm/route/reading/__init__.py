"""Files to learn from: JSON lines, RouteLLM's tables, AlpacaEval's annotations."""
