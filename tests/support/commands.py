"""``bloodedge`` commands, as a user types them."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from bloodedge.cli import main


def here(*arguments: str | Path) -> str:
    """What a command prints, run in this process, which has loaded TensorFlow once for all of them."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code, printed.getvalue()[-2000:]
    return printed.getvalue()


def apart(*arguments: str | Path) -> str:
    """What a command prints, run in a process of its own."""
    command = [sys.executable, "-m", "bloodedge", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
