"""The daemon at one moment, as plain data that the page and every output render."""
