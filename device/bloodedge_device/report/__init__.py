"""The report on one slide: read from the store, shown in a terminal, as a page and as a PDF."""
