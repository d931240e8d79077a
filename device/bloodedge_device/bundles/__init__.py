"""Two places for a network on the board, so that a new one that fails leaves the old one as it was."""
