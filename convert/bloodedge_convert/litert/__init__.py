"""Making and examining LiteRT networks."""
