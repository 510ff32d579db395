"""How good a router is: cost-quality curves and the figures that RouteLLM takes from them."""
