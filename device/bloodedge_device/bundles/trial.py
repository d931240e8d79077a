"""A trial of a bundle in a process of its own.

``python -m bloodedge_device.bundles.trial BUNDLE``, the settings as JSON on stdin, gives a Trial as JSON on stdout.
A network that crashes, or takes all memory, takes this process with it and not the daemon.
"""

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median

from bloodedge.bench.latency import FAILED, interleaved, peak_rss_mb
from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.text import utf8_environment
from bloodedge_device.settings import DeviceSettings

CALLS = 30
LONGEST_S = 300.0
CGROUP_LIMIT = Path("memory.max")


class Trial(Strict):
    """The result of a trial."""

    engine: str
    precision: str
    golden: str
    """The self-test's result, a phrase."""
    latency_ms: float
    """Median per cell."""
    memory_mb: float | None
    """Peak resident memory of its process; None where the system does not report it."""


def try_out(settings: DeviceSettings, path: Path) -> Trial:
    """Self-test and time a bundle in its own process; BloodedgeError when it fails, or is too slow or too large."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(path)],
            input=json.dumps(settings.model_dump(mode="json")),
            capture_output=True,
            encoding="utf-8",
            env=utf8_environment(),
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BloodedgeError(
            f"The trial of the bundle did not end within {LONGEST_S:g} s; choose a lighter network for this board."
        ) from error
    if done.returncode == FAILED and done.stdout:
        raise BloodedgeError(done.stdout.splitlines()[-1])
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BloodedgeError(
            f"The trial of the bundle ended with {done.returncode} ({reason}); check that memory is free and that"
            " the runtime supports this processor, or choose another network."
        )
    trial = Trial.model_validate_json(done.stdout.splitlines()[-1])
    _judge(settings, trial)
    return trial


def _judge(settings: DeviceSettings, trial: Trial) -> None:
    most_ms, most_mb = settings.update.most_latency_ms, settings.update.most_memory_mb or allowed_mb()
    if most_ms is not None and trial.latency_ms > most_ms:
        raise BloodedgeError(
            f"The network takes {trial.latency_ms:.1f} ms per cell on this board, longer than the {most_ms:g} ms that"
            " [update] most_latency_ms allows; choose a lighter one."
        )
    if trial.memory_mb is not None and most_mb is not None and trial.memory_mb > most_mb:
        raise BloodedgeError(
            f"The network's process takes {trial.memory_mb:.0f} MB of memory, more than the {most_mb:.0f} MB that it"
            " may have here ([update] most_memory_mb, or the machine's); choose a lighter one."
        )


def allowed_mb(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Memory limit of this process' cgroup or of the machine, the smaller one; None where neither is known."""
    found = []
    with suppress(OSError):
        group = (proc / "self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
        limit = (cgroups / group / CGROUP_LIMIT).read_text().strip()
        found += [int(limit) / 2**20] if limit.isdigit() else []
    with suppress(OSError):
        total = re.search(r"^MemTotal: +(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
        found += [int(total[1]) / 1024] if total else []
    return min(found, default=None)


def measure(settings: DeviceSettings, path: Path) -> Trial:
    """Load, self-test and time a bundle in this process."""
    import numpy as np

    from bloodedge_device.bundles.loading import load_file

    loaded = load_file(settings, path)
    golden, size = loaded.golden, loaded.manifest.input
    image = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)
    times = interleaved({"network": loaded.engine}, image, CALLS)["network"]
    return Trial(
        engine=loaded.artifact.engine,
        precision=loaded.artifact.precision,
        golden=f"{golden.inputs - golden.flips} of {golden.inputs} golden cells keep the float model's class",
        latency_ms=median(times),
        memory_mb=peak_rss_mb(),
    )


def main() -> int:
    """Print the trial's result as JSON, or a sentence with exit code FAILED."""
    with suppress(OSError):  # where memory runs out, the kernel kills this process and not the daemon
        Path("/proc/self/oom_score_adj").write_text("1000")
    settings = DeviceSettings.model_validate(json.load(sys.stdin))
    try:
        print(measure(settings, Path(sys.argv[1])).model_dump_json())
    except BloodedgeError as error:
        print(error)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
