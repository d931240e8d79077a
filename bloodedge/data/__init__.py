"""Cells on disk: read, audited, split by people, and known again when they come back."""
