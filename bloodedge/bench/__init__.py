"""How long one network input takes: our own measurement, and the runtimes' own tools beside it."""
