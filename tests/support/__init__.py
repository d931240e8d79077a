"""What tests of several rooms share: made-up parts, programs that run beside a test, and what a test needs to run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
