"""How good a model is on cells that it never saw."""
