"""GPU host: from cells to a full-precision model in a run folder."""
