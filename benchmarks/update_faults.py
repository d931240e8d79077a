"""Power cuts while a bundle is installed, judged or rolled back: one slot always runs, and the next install works.

    python benchmarks/update_faults.py [--every N] [--out FILE]

Each change of the slots, by the commands and by the daemon, is ended with SIGKILL (strace's fault injection) at every
system call that writes below the state folder, one after the other. After each: what is to run is the bundle of before
or of after, it loads as the daemon loads it (signature, digest, self-test), and a newer bundle can be installed. From a
run that is let go on: no file is renamed into place before it was synced.
"""

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hostile import turn_a_bit
from programs import program

from bloodedge.bundle import MANIFEST, zip_files
from bloodedge.errors import BloodedgeError
from bloodedge.files import write_json
from bloodedge.machine import hardware_name
from bloodedge.signing.keys import new_key, read_private_key
from bloodedge.signing.signature import sign_bundle
from bloodedge.signing.trust import revoke, trust
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.loading import load
from bloodedge_device.bundles.slot_record import COPY, RECORD, Record, read_record, slot_file, slots_folder
from bloodedge_device.bundles.start import counted_start
from bloodedge_device.bundles.switch import MOST_STARTS, count_start, mark_good, roll_back
from bloodedge_device.bundles.trial import Trial
from bloodedge_device.settings import DeviceSettings

RESULTS = Path(__file__).parent / "results" / "update_faults.json"
MODEL = Path(__file__).resolve().parents[1] / "models" / "simulated.bundle"
CALLS = (
    *("openat", "write", "pwrite64", "sendfile", "copy_file_range", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "chmod", "link", "symlink"),
)
AT_ONCE = 2
HOSTILE = range(5, 9)
"""Serials of the bundles that no board may take."""

COMMAND = "from bloodedge.cli import main; main(sys.argv[2:])"
CALLED = """
from pathlib import Path
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.bundles import install, start, switch
from bloodedge_device.bundles.slot_record import read_record
from bloodedge_device.bundles.trial import Trial
state = Path(sys.argv[1])
settings = DeviceSettings(state=state, engine="litert")
trial = lambda *_: Trial(engine="litert", precision="int8", golden="", latency_ms=1, memory_mb=1)
digest = lambda: read_record(state).running.sha256
"""
ACTIONS = {
    "install": "install.install(settings, Path(sys.argv[3]), trial=trial)",
    "repair": "start.repair(settings)",
    "promote": "switch.mark_good(state, digest())",
    "fall back": "switch.mark_bad(state, digest(), 'it crashed')",
    "older": "install.install(settings, Path(sys.argv[3]), allow_older=True, trial=trial)",
    "start": "with start.counted_start(settings): pass",
    "keep health": "switch.save_health(state, digest(), 60.0)",
}


@dataclass(frozen=True)
class Change:
    """One way in which the slots are changed."""

    name: str
    start: Path
    """A state folder, copied for each run."""
    arguments: tuple[str, ...]
    """Of a command, or an action's name and what it takes; STATE stands for the state folder."""
    refused: bool = False

    def command(self, state: Path) -> list[str]:
        """A process that makes the change."""
        values = [value.replace("STATE", str(state)) for value in self.arguments]
        code = COMMAND if values[0] == "device" else CALLED + ACTIONS[values[0]]
        return [sys.executable, "-c", f"import sys\n{code}", str(state), *values]


@dataclass(frozen=True)
class Point:
    """A system call at which a run is ended."""

    call: str
    number: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only every Nth system call")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.disable()  # what each start says of a record that was repaired
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        outcomes = {change.name: bench.killed(change, options.every) for change in bench.changes()}
    everything = [(change, *outcome) for change, some in outcomes.items() for outcome in some]
    result = {
        "command": "python benchmarks/update_faults.py" + (f" --every {options.every}" if options.every > 1 else ""),
        "cpu": hardware_name(),
        "kill_points": len(everything),
        "by_change": {change: len(some) for change, some in outcomes.items()},
        "by_call": dict(Counter(point.call for _, point, _ in everything).most_common()),
        "renames_into_place": bench.renames,
        "of_files_not_synced_before": bench.unsynced,
        "failures": [f"{change}, {point.call} {point.number}: {what}" for change, point, what in everything if what],
    }
    print(json.dumps(result, indent=2))
    write_json(options.out, result)
    sys.exit(bool(result["failures"] or bench.unsynced))


class Bench:
    """A laboratory that signs bundles, and boards in each state that a change begins from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.renames = 0
        self.unsynced: list[str] = []
        self.private, _, self.public = new_key("lab", folder / "keys")
        self.bundles = {serial: self.bundle(serial, self.private) for serial in (1, 2, 3, 9)}
        stranger, former = (new_key(name, folder / name) for name in ("stranger", "former"))
        self.hostile = {
            "an unsigned one": self.bundle(8, None),
            "a stranger's": self.bundle(7, stranger[0]),
            "one by a revoked key": self.bundle(6, former[0]),
            "a changed one": turn_a_bit(self.bundle(5, self.private)),
        }
        self.former = former[2]

    def bundle(self, serial: int, key: Path | None) -> Path:
        """A bundle, signed with a key or not at all."""
        with zipfile.ZipFile(MODEL) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        manifest = {**json.loads(files.pop(MANIFEST)), "serial": serial, "name": "lymph"}
        path = self.folder / f"{serial}.bundle"
        zip_files({**files, MANIFEST: json.dumps(manifest).encode()}, path)
        if key is not None:
            sign_bundle(path, read_private_key(key))
        return path

    def board(self, name: str, *serials: int, good: bool = True) -> Path:
        """A board on which these were installed; all of them proved good, or all but the last."""
        state = self.folder / "boards" / name
        trust(state / "trust", self.public)
        trust(state / "trust", self.former)
        revoke(state / "trust", self.former.id, "left the laboratory")
        for serial in serials:
            done = install(settings_of(state), self.bundles[serial], trial=tried)
            if good or serial != serials[-1]:
                mark_good(state, done.what.sha256)
        return state

    def changes(self) -> list[Change]:
        """All ways in which slots are changed."""
        empty, good = self.board("empty"), self.board("good", 1, 2)
        trial = self.board("trial", 1, 2, good=False)
        only = self.board("only", 1, good=False)
        failed = self.board("failed", 1, 2, good=False)
        roll_back(settings_of(failed))
        crashed = self.board("crashed", 1, 2, good=False)
        for _ in range(MOST_STARTS):
            count_start(crashed)
        broken = self.board("broken", 1, 2)
        slot_file(broken, "b").write_bytes(b"broken")
        damaged = self.damaged(good, "damaged", RECORD)
        twice = self.damaged(good, "damaged twice", RECORD, COPY)
        outdated = self.damaged(good, "without a copy", COPY)
        third, options = str(self.bundles[3]), ("--state", "STATE")
        unpacked = self.folder / "unpacked"
        shutil.unpack_archive(third, unpacked, "zip")
        return [
            Change("device install, the first", empty, ("device", "install", third, *options)),
            Change("device install, over an older one", good, ("device", "install", third, *options)),
            Change("device install of a folder", good, ("device", "install", str(unpacked), *options)),
            Change("install over a failed one", failed, ("install", third)),
            Change("install of an older one, allowed", good, ("older", str(self.bundles[1]))),
            Change("install after one that was cut off", self.cut_off(good), ("install", third)),
            Change("install over a damaged record", damaged, ("install", str(self.bundles[2]))),
            Change("install over a damaged slot", broken, ("install", third)),
            Change("install of what a damaged slot held", broken, ("install", str(self.bundles[2]))),
            *(
                Change(f"refused: {name}", good, ("install", str(path)), refused=True)
                for name, path in self.hostile.items()
            ),
            Change("refused: an older one", good, ("install", str(self.bundles[1])), refused=True),
            Change("device rollback", trial, ("device", "rollback", *options)),
            Change("device rollback to the shipped one", only, ("device", "rollback", *options)),
            Change("promotion", trial, ("promote",)),
            Change("fall-back", trial, ("fall back",)),
            Change("fall-back to the shipped one", only, ("fall back",)),
            Change("a start on probation", trial, ("start",)),
            Change("a start after three crashes", crashed, ("start",)),
            Change("a start with a damaged slot", broken, ("start",)),
            Change("health kept", trial, ("keep health",)),
            Change("a damaged record repaired", damaged, ("repair",)),
            Change("a damaged record repaired without its copy", twice, ("repair",)),
            Change("a start with a damaged copy of the record", outdated, ("start",)),
        ]

    def damaged(self, board: Path, name: str, *files: str) -> Path:
        """A board's copy in whose slots' folder these files are cut short."""
        state = Path(shutil.copytree(board, self.folder / "boards" / name))
        for file in files:
            (slots_folder(state) / file).write_bytes((slots_folder(board) / file).read_bytes()[:100])
        return state

    def cut_off(self, board: Path) -> Path:
        """A board's copy with what an install and a daemon left that were cut off."""
        state = Path(shutil.copytree(board, self.folder / "boards" / "cut off"))
        half = self.bundles[3].read_bytes()[:1000]
        (slots_folder(state) / ".a.1.partial.bundle").write_bytes(half)
        (slots_folder(state) / ".slots.1.partial.json").write_bytes(b"{")
        return state

    def killed(self, change: Change, every: int) -> list[tuple[Point, str]]:
        """(where a run was ended, what went wrong or nothing) for each point."""
        state, trace = self.folder / "traced" / "state", self.folder / "trace"
        copied(change.start, state)
        options = ["--seccomp-bpf", "-y", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
        code = strace(change.command(state), options)
        assert (code != 0) == change.refused, f"{change.name} ended with {code} when it was let go on"
        text = trace.read_text(errors="replace")
        self.look_at_renames(change, text, state)
        points = points_in(text, state)[::every]
        after = running(state)
        print(f"{change.name}: {len(points)} points", file=sys.stderr)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(partial(self.ended, change, after), points))

    def ended(self, change: Change, after: str, point: Point) -> tuple[Point, str]:
        """What is wrong after a run that was ended at a point."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            state = copied(change.start, Path(name) / "state")
            before = "damaged" if "damaged" in change.start.name else running(state)
            ended = f"inject={point.call}:signal=KILL:when={point.number}"
            options = ["-o", "/dev/null", "-e", f"trace={point.call}", "-e", ended]
            code = strace(change.command(state), options)
            # strace counts by process: it met the trial's first, which the command survives.
            trial_ended = code == 1 and change.arguments[:2] == ("device", "install")
            if code not in {-9, 137} and not trial_ended:
                return point, f"the run was not ended but gave {code}"
            try:
                return point, self.wrong(state, {before, after})
            except (BloodedgeError, AssertionError) as error:
                return point, f"{type(error).__name__}: {error}"

    def wrong(self, state: Path, known: set[str]) -> str:
        """What is wrong with a state folder, as the daemon's next start and the next install find it."""
        settings = settings_of(state)
        if "damaged" not in known and (now := running(state)) not in known:
            return f"{now} is to run, which is neither the old nor the new one"
        with counted_start(settings) as loaded:
            record = read_record(state)
            slot = record.running
            if (slot is None) != (loaded.slot is None) or (slot and loaded.manifest.serial != slot.serial):
                return "what was loaded is not what is to run"
            trusted = loaded.signer is not None and loaded.manifest.serial not in HOSTILE and loaded.golden.passed
            if slot is not None and not trusted:
                return "what runs is not to be trusted"
            if slot is None and "shipped" not in known:
                return "no slot's bundle runs, though there was a good one"
        return self.next_install(settings)

    def next_install(self, settings: DeviceSettings) -> str:
        """What is wrong after a newer bundle was installed."""
        slot = read_record(settings.state).running
        if slot is not None and slot.state == "on probation":
            roll_back(settings)
        install(settings, self.bundles[9], trial=tried)
        left = [path.name for path in slots_folder(settings.state).glob(".*")]
        if left:
            return f"{left[0]} was left behind"
        return "" if load(settings).manifest.serial == 9 else "the next install did not switch"

    def look_at_renames(self, change: Change, text: str, state: Path) -> None:
        """Count the files that were renamed into place, and those of them that were not synced before."""
        synced: set[str] = set()
        for line in text.splitlines():
            if found := re.search(r"\b(?:fsync|fdatasync)\(\d+<([^>]*)>", line):
                synced.add(found[1])
            elif (found := re.search(r'\brename(?:at2?)?\([^"]*"([^"]*)"[^"]*"([^"]*)"', line)) and found[2].startswith(
                str(state)
            ):
                self.renames += 1
                if found[1] not in synced:
                    self.unsynced.append(f"{change.name}: {Path(found[2]).name}")


def tried(_settings: DeviceSettings, _path: Path) -> Trial:
    return Trial(engine="litert", precision="int8", golden="", latency_ms=1, memory_mb=1)


def settings_of(state: Path) -> DeviceSettings:
    return DeviceSettings(state=state, engine="litert")


def copied(start: Path, state: Path) -> Path:
    shutil.rmtree(state, ignore_errors=True)
    return Path(shutil.copytree(start, state))


def running(state: Path) -> str:
    """The bundle that is to run."""
    record: Record = read_record(state)
    return "shipped" if record.running is None else f"{record.active}, {record.running.title}"


def strace(command: list[str], options: list[str]) -> int:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "BLOODEDGE_DEVICE__ENGINE": "litert"}
    silent = subprocess.DEVNULL
    return subprocess.run(
        [program("strace"), "-f", "-qq", *options, *command], env=environment, check=False, stdout=silent, stderr=silent
    ).returncode


def points_in(trace: str, state: Path) -> list[Point]:
    """The system calls of a trace that write below a folder, each with its number among those of its name."""
    numbers: Counter[str] = Counter()
    first = trace.split(maxsplit=1)[0]
    points = []
    for line in trace.splitlines():
        found = re.match(r"(\d+) +(\w+)\((.*)", line)
        if not found or found[1] != first:  # another thread's or process' calls are counted by themselves
            continue
        numbers[found[2]] += 1
        writes = found[2] != "openat" or "O_CREAT" in found[3]
        if str(state) in found[3] and writes and " = -1 " not in found[3]:  # one that failed wrote nothing
            points.append(Point(found[2], numbers[found[2]]))
    return points


if __name__ == "__main__":
    main()
