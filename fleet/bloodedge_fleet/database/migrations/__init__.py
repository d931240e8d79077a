"""Alembic's folder: one file per version of the tables."""
