"""The report on one slide, read from the store: as a page and as tables in a terminal."""
