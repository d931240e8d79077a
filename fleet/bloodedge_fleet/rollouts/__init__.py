"""Bundles to boards in stages: a few first, the others when those have run it well, none when it fails."""
