"""Power cuts while a root is provisioned: every file is whole, old or new, and the next run finishes.

    python benchmarks/provision_faults.py [--every N] [--out FILE]

A made-up Raspberry Pi root is provisioned for one board, then for another, and then undone; each run is
ended with SIGKILL (strace's fault injection) at every system call that writes, one after the other. After each: no file
is half-written; the next run ends well and keeps nothing back as changed by hand; then `--undo` restores every byte.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from programs import program

from bloodedge.files import write_json
from bloodedge_device.provision.apply import apply
from bloodedge_device.provision.plan import provisioning, undoing
from bloodedge_device.provision.undo_record import RECORD

RESULTS = Path(__file__).parent / "results" / "provision_faults.json"
CALLS = ("write", "fsync", "rename", "unlink", "rmdir", "mkdir", "chmod", "symlink")
FIRST, SECOND = "raspberry-pi-5", "generic-arm64"
RUN = """
import sys
from pathlib import Path
from bloodedge_device.provision.apply import apply
from bloodedge_device.provision.plan import provisioning, undoing
root = Path(sys.argv[1])
apply(provisioning(root, sys.argv[2], True) if len(sys.argv) > 2 else undoing(root))
"""

Files = dict[str, bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only every Nth system call")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = made_up_root(folder / "original")
        first = copied(original, folder / "first")
        apply(provisioning(first, FIRST, read_only=True))
        other = copied(first, folder / "other")
        apply(provisioning(other, SECOND, read_only=True))
        outcomes = [
            *(("the first", *each) for each in killed(folder, original, [FIRST], first, options.every, begun)),
            *(("provision", *each) for each in killed(folder, first, [SECOND], other, options.every, finished)),
            *(("undo", *each) for each in killed(folder, first, [], original, options.every, undone)),
        ]
    result = {
        "command": "python benchmarks/provision_faults.py" + (f" --every {options.every}" if options.every > 1 else ""),
        "kill_points": len(outcomes),
        "by_call": dict(Counter(call for _, call, _, _ in outcomes)),
        "failures": [f"{run}, {call} {number}: {what}" for run, call, number, what in outcomes if what],
    }
    print(json.dumps(result, indent=2))
    write_json(options.out, result)
    sys.exit(bool(result["failures"]))


def made_up_root(root: Path) -> Path:
    for folder in ("etc", "usr/bin", "boot/firmware"):
        (root / folder).mkdir(parents=True)
    (root / "boot/firmware/config.txt").write_text("dtparam=audio=on\n")
    (root / "boot/firmware/cmdline.txt").write_text("console=tty1 root=PARTUUID=0-02 rootwait\n")
    (root / "usr/bin/dpkg").write_bytes(b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little"))
    return root


def copied(root: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(root, target, symlinks=True))


def files(root: Path) -> Files:
    """What each path holds; links as their targets."""
    paths = (path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    return {
        str(path.relative_to(root)): os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in paths
    }


def killed(
    folder: Path, start: Path, arguments: list[str], end: Path, every: int, check: Callable[[Path, Path], str]
) -> Iterator[tuple[str, int, str]]:
    """(system call, which one, what went wrong or nothing) for each point at which a run was ended."""
    root, trace = folder / "root", folder / "trace"
    strace(copied(start, root), arguments, ["--seccomp-bpf", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"])
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    points = [(call, number) for call in CALLS for number in range(1, calls[call] + 1)]
    before, after = files(start), files(end)
    for call, number in points[::every]:
        copied(start, root)
        ended = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        code = strace(root, arguments, ["-o", "/dev/null", *ended])
        wrong = "" if code else "the run was not ended"
        wrong = wrong or half_written(files(root), before, after) or check(root, end)
        yield call, number, wrong


def strace(root: Path, arguments: list[str], options: list[str]) -> int:
    command = [program("strace"), "-f", "-qq", *options, sys.executable, "-c", RUN, str(root), *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL).returncode


def half_written(now: Files, before: Files, after: Files) -> str:
    for path, content in now.items():
        if path == RECORD or ".partial" in Path(path).name:
            continue
        if content not in {before.get(path), after.get(path)}:
            return f"{path} is neither the old nor the new one"
    return next((f"{path} is gone" for path in before if path in after and path not in now), "")


def begun(root: Path, end: Path) -> str:
    """As finished, for the run that made the root a board's."""
    return finished(root, end, FIRST)


def finished(root: Path, end: Path, board: str = SECOND) -> str:
    """What is wrong after the next run, and after everything was undone."""
    plan = provisioning(root, board, read_only=True)
    if plan.kept:
        return f"{next(iter(plan.kept))} counts as changed by hand"
    apply(plan)
    if files(root) != files(end):
        return f"the next run did not finish: {differing(files(root), files(end))}"
    apply(undoing(root))
    original = files(root.parent / "original")
    return "" if files(root) == original else f"undo left {differing(files(root), original)}"


def undone(root: Path, end: Path) -> str:
    """What is wrong after the next undo, where there is anything left to undo."""
    if (root / RECORD).exists():
        apply(undoing(root))
    return "" if files(root) == files(end) else f"undo left {differing(files(root), files(end))}"


def differing(some: Files, others: Files) -> str:
    return ", ".join(sorted(path for path in some.keys() | others.keys() if some.get(path) != others.get(path)))


if __name__ == "__main__":
    main()
