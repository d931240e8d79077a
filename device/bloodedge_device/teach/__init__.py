"""Teaching the model a bench: which cells to review next, and whether enough were."""
