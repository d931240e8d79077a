"""The commit that a record was made with."""

import subprocess
from pathlib import Path


def revision() -> str:
    """The commit of the checkout, with "and changes" where files differ from it; "unknown" outside a checkout.

    Other records are no change: one command makes several of them.
    """
    try:
        changed = _git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/results")
        return _git("rev-parse", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()
