"""A board from its blank card to years of service, on a virtual machine with a real kernel and a live systemd.

    python benchmarks/boot/run.py [--suite trixie] [--cuts 10] [--data ../shared/data] [--json FILE]

A Debian is put on a disk as on a card; beside it, on the boot partition, lie firmware_configs/image/user-data, the
Debian package and a laboratory's public key. The power comes on, there is no network, and nobody touches anything: the
board installs itself, starts again, and its service classifies what its camera shows. The camera is the kernel's
virtual one (vivid), an ordinary V4L2 device: real held-out cells in real fields are played into it. Then the board is
looked at, hurt and repaired: see the checks below, one function each. Each gives what was seen, and whether it is as it
must be. The processor is emulated: no time here is a board's.

Needs root, QEMU and mmdebstrap (apt install qemu-system-x86 qemu-utils mmdebstrap dosfstools mtools). Writes
results/boot.json and exits 1 when something does not hold.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import image
from board import CONFIG, PYTHON, SERVICE, STATE, Board
from machine import Machine, MachineError, why_not
from stage import BENCHMARKS, fields
from supplies import Supplies

from bloodedge.files import write_json

RESULTS = BENCHMARKS / "results" / "boot.json"
DISKS = ("card.qcow2", "boot.raw", "state.raw")
NEW, HOSTILE, NEWER = "/srv/new.bundle", "/srv/hostile.bundle", "/srv/newer.deb"
"""Where things are put on the board."""

REST = f"systemctl stop bloodedge-device.socket {SERVICE}"

AGE = """
import sqlite3
with sqlite3.connect("/var/lib/bloodedge/device.sqlite") as database:
    database.execute("UPDATE slides SET started = ?", ("2020-01-01T00:00:00+00:00",))
    database.execute("UPDATE frames SET captured_at = ?", ("2020-01-01T00:00:00+00:00",))
"""
"""Everything stored is from long ago."""

SLOTS = f"{STATE}/slots/slots.json"

SPANS_S = (5.0, 15.0, 5.0, 2.0)
"""Within which each of four power cuts comes."""

READY_AGAIN_S = 600.0
"""The emulated processor is some 20 times slower than a board's."""


@dataclass
class Bench:
    """What the checks share."""

    board: Board
    supplies: Supplies
    rng: random.Random
    cuts: int

    @property
    def machine(self) -> Machine:
        """The machine under the board."""
        return self.board.machine


Observed = dict[str, Any]
"""What a check saw; it raises when it is not as it must be."""


def must(condition: object, what: str) -> None:
    """A check fails, in words."""
    if not condition:
        raise MachineError(what)


def first_start(bench: Bench) -> Observed:
    """From power on a blank card to a classified cell, with no network and no hands."""
    board, machine = bench.board, bench.machine
    machine.power_on()
    machine.wait_up()
    board.wait_ready(1500)
    board.wait_for_cells(0)
    done = machine.sh("cloud-init status --wait --long")
    must("status: done" in done.out, f"cloud-init: {done.out}")
    frames, cells, _ = board.stored()
    return {"frames": frames, "cells_classified": cells, "engine": engine_of(board)}


def engine_of(board: Board) -> str:
    """The line of the log that names the network and its engine."""
    said = board.machine.need(f"journalctl -u {SERVICE} --no-pager -o cat | grep -m1 '^Bundle '")
    return said.strip()


def system(bench: Bench) -> Observed:
    """No unit of the system has failed; what provisioning set is what the kernel and systemd have."""
    board, machine = bench.board, bench.machine
    no_unit_failed(machine)
    seen = {
        "swappiness": machine.need("cat /proc/sys/vm/swappiness"),
        "panic_s": machine.need("cat /proc/sys/kernel/panic"),
        "swap": machine.need("swapon --show=NAME --noheadings"),
        "log_kept": machine.sh("test -d /var/log/journal/$(cat /etc/machine-id)").code == 0,
        "hardware_watchdog": machine.need("systemctl show -p RuntimeWatchdogUSec --value"),
        "memory_max_mb": int(board.show(SERVICE, "MemoryMax")[0]) >> 20,
        "name": machine.need(f"cat {STATE}/board.env"),
        "camera_node": machine.need("stat -L -c '%G %a' /dev/v4l/by-id/*-video-index0"),
    }
    group = board.show(SERVICE, "ControlGroup")[0]
    must(int(machine.need(f"cat /sys/fs/cgroup{group}/memory.max")) >> 20 == seen["memory_max_mb"], "no memory limit")
    must((seen["swappiness"], seen["panic_s"], seen["swap"]) == ("100", "10", "/dev/zram0"), f"not as set: {seen}")
    must(seen["log_kept"] and seen["hardware_watchdog"] == "1min" and seen["camera_node"] == "video 660", f"{seen}")
    return seen


def no_unit_failed(machine: Machine) -> None:
    """The system has started whole."""
    state = machine.sh("systemctl is-system-running --wait", 300).out.strip()
    failed = machine.sh("systemctl --failed --no-legend --plain").out.split("\n")
    must(state == "running", f"the system is {state}: {failed}")


def confined(bench: Bench) -> Observed:
    """The daemon has no rights, writes nowhere but to its folder and has no device but the camera; systemd agrees."""
    board, machine = bench.board, bench.machine
    pid = board.show(SERVICE, "MainPID")[0]
    status = dict(line.split(":", 1) for line in machine.need(f"cat /proc/{pid}/status").splitlines())
    seen: Observed = {key: status[key].strip() for key in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
    must(set(seen.values()) == {"0000000000000000", "1", "2"}, f"the process has {seen}")
    owner = machine.need(f"stat -c %U /proc/{pid}")
    must(owner == "bloodedge", f"the daemon runs as {owner}")
    units = machine.need("cd /etc/systemd/system; ls bloodedge-*.service").split()
    exposure = {unit: exposure_of(machine, unit) for unit in units}
    must(max(exposure.values()) <= 2.5, f"exposed: {exposure}")
    # Inside its namespace even root cannot write the system.
    inside = f"nsenter -t {pid} -m -- "
    for path in ("/etc/x", "/usr/x", "/srv/x", "/var/x"):
        must(machine.sh(f"{inside} touch {path}").code != 0, f"the daemon can write {path}")
    must(machine.sh(f"{inside} touch {STATE}/x && rm {STATE}/x").code == 0, "nothing at all can be written there")
    group = board.show(SERVICE, "ControlGroup")[0]
    as_daemon = f"echo $$ > /sys/fs/cgroup{group}/cgroup.procs || exit 0; exec 3<"
    for device in ("/dev/vda", "/dev/hwrng", "/dev/ttyS0"):
        done = machine.sh(f"{as_daemon}{device}")
        must(done.code != 0 and "not permitted" in done.err, f"its devices include {device}: {done}")
    must(machine.sh(f"{as_daemon}{image.CAMERA}").code == 0, "the camera is none of its devices")
    return {**seen, "user": owner, "exposure": exposure}


def exposure_of(machine: Machine, unit: str) -> float:
    """What systemd makes of a unit as it is loaded, of 10."""
    said = machine.need(f"SYSTEMD_COLORS=0 systemd-analyze security --no-pager {unit} | tail -n 1")
    return float(said.partition(f"{unit}: ")[2].split()[0])


def page(bench: Bench) -> Observed:
    """The page answers, tells of its health, and the socket unit can hold its address."""
    machine = bench.machine
    script = 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8765/{}", timeout=60).status)'
    ask = f"{PYTHON} -c '{script}'"
    seen = {path or "page": answer(machine, ask.format(path)) for path in ("", "healthz", "readyz", "metrics")}
    enable = "systemctl enable --now bloodedge-device.socket 2>&1"
    machine.need(f"systemctl stop {SERVICE}; {enable}; systemctl start {SERVICE}", 400)
    bench.board.wait_ready()
    over_socket = answer(machine, ask.format("healthz"))
    disable = "systemctl disable --now bloodedge-device.socket 2>&1"
    machine.need(f"systemctl stop {SERVICE}; {disable}; systemctl start {SERVICE}", 400)
    bench.board.wait_ready()
    return {**seen, "over_socket": over_socket}


def answer(machine: Machine, ask: str) -> str:
    """The page's status once it is 200: without a frame lately it is not, and a frame takes long here."""
    machine.until(lambda: machine.sh(ask).out.strip() == "200", 300, f"no 200: {ask}", 2.0)
    return "200"


def timers(bench: Bench) -> Observed:
    """The nightly backup and the daily examination do their work when they are started."""
    machine = bench.machine
    due = machine.need("systemctl list-timers --no-legend 'bloodedge-*' | grep -o 'bloodedge-[a-z]*.timer'").split()
    must(sorted(due) == [f"bloodedge-{name}.timer" for name in ("backup", "doctor", "retention")], f"timers: {due}")
    machine.need("systemctl start bloodedge-backup.service", 400)
    machine.need("systemctl start bloodedge-doctor.service", 400)
    whole = f"{PYTHON} -m zipfile -t /var/lib/bloodedge-backup/day-*.zip"
    machine.need(whole)
    return {"due": due, "backup": machine.need("cd /var/lib/bloodedge-backup; ls")}


def retention(bench: Bench) -> Observed:
    """Images past their time go by the nightly unit while the daemon rests, and no row does."""
    board, machine = bench.board, bench.machine
    machine.need(REST, 400)
    before, count = board.stored(), f"find {STATE}/crops -name '*.png' | wc -l"
    images = int(machine.need(count))
    machine.need(f"sudo -u bloodedge {PYTHON} -c '{AGE}'")
    machine.need(f"cp -p {CONFIG} /srv/kept.toml; printf '\n[store]\nkeep_days = 30\n' >> {CONFIG}")
    machine.need("systemctl start bloodedge-retention.service", 400)
    left, said = int(machine.need(count)), board.journal("bloodedge-retention.service", 3)
    machine.need(f"mv /srv/kept.toml {CONFIG}; systemctl start {SERVICE}", 400)
    board.wait_ready(READY_AGAIN_S)
    must(images > 0 == left, f"of {images} images {left} are left: {said}")
    after = board.stored()
    must(after[1] >= before[1] and after[2] == "ok", f"before {before}, after {after}")
    return {"images_before": images, "images_after": left, "cells_before": before[1], "cells_after": after[1]}


def killed(bench: Bench) -> Observed:
    """SIGKILL: the service is back by itself, and no row is lost."""
    board, machine = bench.board, bench.machine
    before, pid = board.stored()[1], board.show(SERVICE, "MainPID")[0]
    machine.need(f"kill -KILL {pid}")
    machine.until(lambda: board.show(SERVICE, "MainPID")[0] not in {pid, "0"}, 60, "it was not started again")
    board.wait_ready()
    after = board.wait_for_cells(before)
    must(board.stored()[2] == "ok", "the database is damaged")
    return {"cells_before": before, "cells_after": after}


def hung(bench: Bench) -> Observed:
    """A daemon that stands still is ended by systemd's watchdog and started again."""
    board, machine = bench.board, bench.machine
    pid = board.show(SERVICE, "MainPID")[0]
    machine.need(f"kill -STOP {pid}")
    machine.until(lambda: board.show(SERVICE, "MainPID")[0] not in {pid, "0"}, 300, "systemd let it hang")
    board.wait_ready()
    said = board.machine.need("journalctl -u bloodedge-device -b -o cat --no-pager | grep -m1 -i 'watchdog timeout'")
    return {"journal": said}


def wrong_settings(bench: Bench) -> Observed:
    """Wrong settings end the daemon with one sentence and it is not tried again; put right, it runs."""
    board, machine = bench.board, bench.machine
    machine.need(f"cp {CONFIG} /srv/kept.toml; printf '\\n[camera2]\\nkind = 1\\n' >> {CONFIG}")
    machine.sh(f"systemctl restart {SERVICE}", 400)
    machine.until(lambda: board.show(SERVICE, "ActiveState")[0] == "failed", 120, "wrong settings were tried for ever")
    (code,) = board.show(SERVICE, "ExecMainStatus")
    said = board.journal(lines=10).partition("bloodedge: ")[2].partition(SERVICE)[0].strip()
    must(code == "2" and said and "Traceback" not in said, f"exit code {code}: {said}")
    machine.need(f"cp /srv/kept.toml {CONFIG}; systemctl reset-failed {SERVICE}; systemctl start {SERVICE}", 400)
    board.wait_ready()
    return {"exit_code": code, "said": said}


def camera_away(bench: Bench) -> Observed:
    """The camera goes and comes back: the daemon stays, and classifies again."""
    board, machine = bench.board, bench.machine
    pid = board.show(SERVICE, "MainPID")[0]
    machine.need("systemctl stop microscope-stage; echo vivid.0 > /sys/bus/platform/drivers/vivid/unbind")
    machine.until(lambda: "stopped giving frames" in board.journal() or "not there" in board.journal(), 120, "not told")
    machine.need("sleep 5; echo vivid.0 > /sys/bus/platform/drivers/vivid/bind; systemctl start microscope-stage")
    before = board.stored()[1]
    after = board.wait_for_cells(before, 400)
    must(board.show(SERVICE, "MainPID")[0] == pid, "the daemon was started again")
    return {"cells_before": before, "cells_after": after, "daemon": "the same process"}


def panic(bench: Bench) -> Observed:
    """A kernel that panics starts again after ten seconds."""
    return start_again(bench, "echo c > /proc/sysrq-trigger")


def dead_kernel(bench: Bench) -> Observed:
    """A kernel that stands still is reset by the hardware's watchdog."""
    return start_again(bench, "echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger")


def start_again(bench: Bench, script: str) -> Observed:
    """Give a fatal command and wait for the board to be READY in another start of the kernel."""
    board, machine = bench.board, bench.machine
    boot = machine.need("cat /proc/sys/kernel/random/boot_id")
    before = board.stored()[1]
    machine.send(f"sync; {script}")
    machine.until(lambda: machine.need("cat /proc/sys/kernel/random/boot_id") != boot, 600, "it did not start again")
    board.wait_ready()
    must(board.stored()[2] == "ok", "the database is damaged")
    return {"cells_before": before, "cells_after": board.wait_for_cells(before)}


def updated(bench: Bench) -> Observed:
    """A signed bundle is installed and taken over as the daemon runs; unsigned, strangers' and changed ones are not."""
    board, supplies = bench.board, bench.supplies
    board.bloodedge("device", "rollback")  # from what an earlier check left on probation, if anything
    before = running_serial(board)
    seen: Observed = {}
    for name, (path, words) in supplies.hostile().items():
        code, said = install(board, path, HOSTILE)
        must(code == 1 and words in said and "\n" not in said, f"{name}: {code}: {said}")
        seen[f"{name}, refused"] = said
    must(running_serial(board) == before, "another bundle runs")
    code, said = install(board, supplies.signed(1), NEW)
    if code:  # the profile's limit of latency, which is a board's and not an emulated processor's
        must("most_latency_ms allows" in said, f"install: {said}")
        seen["slower than the profile allows, refused"] = said
        board.machine.need(f"sed -i 's/^most_latency_ms = .*/most_latency_ms = 60000/' {CONFIG}")
        board.machine.need(f"systemctl reload {SERVICE}")
        code, said = install(board, supplies.signed(1), NEW)
    must(code == 0, f"install: {said}")
    seen["installed"] = said
    board.machine.until(lambda: running_serial(board) == supplies.serial(1), 300, "it was not taken over", 2.0)
    code, said = board.bloodedge("device", "rollback")
    must(code == 0, f"rollback: {said}")
    seen["rolled back"] = said
    return seen


def install(board: Board, bundle: Path, path: str) -> tuple[int, str]:
    """Have the board install a bundle, as a person does; (exit code, what it said)."""
    board.put(bundle, path)
    return board.bloodedge("device", "install", path, within_s=400)


def running_serial(board: Board) -> int | None:
    """The serial of the slot's bundle that runs; None: the one that came with the installation."""
    record = board.slots()
    return None if record["active"] is None else int(record["slots"][record["active"]]["serial"])


def works(machine: Machine, script: str) -> bool:
    """Whether a shell script works in the machine."""
    return machine.sh(script).code == 0


def power_cuts(bench: Bench) -> Observed:
    """The power goes as cells are classified, within an install and at the switch: the board comes up by itself, whole.

    Of four cuts two come at any moment, one within 15 s of the start of an install, and one up to 2 s after the record
    of the slots named the new bundle.
    """
    board, machine = bench.board, bench.machine
    lost = panics = living = switches = 0
    serials: list[int | None] = []
    for number in range(bench.cuts):
        if number % 2:
            board.bloodedge("device", "rollback")  # what is on probation would refuse the next
        allowed = {running_serial(board)}
        if number % 2:
            bundle = bench.supplies.signed(10 + number)
            allowed.add(bench.supplies.serial(10 + number))
            board.put(bundle, NEW)
            machine.send(f"sudo -u bloodedge bloodedge device install {NEW}")
        before = board.stored()[1]
        if number % 4 == 3:
            named = f"grep -q '\"serial\": {bench.supplies.serial(10 + number)}' {SLOTS}"
            machine.until(partial(works, machine, named), 600, "the record of the slots never named the new bundle")
            switches += 1
        machine.need(f"sleep {bench.rng.uniform(0, SPANS_S[number % 4]):.2f}")
        living += number % 2 and machine.sh("pgrep -f '[d]evice install'").code == 0
        machine.cut()
        machine.power_on()
        board.wait_ready()
        _, after, whole = board.stored()
        must(whole == "ok", f"cut {number}: the database is damaged: {whole}")
        lost += max(0, before - after)
        serials.append(running_serial(board))
        must(serials[-1] in allowed, f"cut {number}: serial {serials[-1]} runs, not one of {allowed}")
        board.wait_for_cells(after)
        panics += machine.console().count("end Kernel panic")
    must(lost == 0, f"{lost} rows were lost")
    # Now and then the emulator loses a race with a kernel that patches its own code: it panics, and starts again.
    seen: Observed = {
        "cuts": bench.cuts,
        "as_an_install_ran": living,
        "after_the_record_named_the_new_bundle": switches,
    }
    return {**seen, "rows_lost": lost, "serials_that_ran": serials, "panics_of_the_emulated_kernel": panics}


def upgraded(bench: Bench) -> Observed:
    """A newer package on the live system: units brought up to date, the service runs again by itself."""
    board, machine = bench.board, bench.machine
    pid, before = board.show(SERVICE, "MainPID")[0], board.stored()[1]
    machine.put(bench.supplies.newer.read_bytes(), NEWER)
    machine.need(f"dpkg -i {NEWER} 2>&1; rm {NEWER}", 900)
    board.wait_ready(READY_AGAIN_S)
    must(board.show(SERVICE, "MainPID")[0] != pid, "the old daemon runs on")
    must("# version 99" in machine.need(f"cat /etc/systemd/system/{SERVICE}"), "the unit is the old one")
    return {"cells_before": before, "cells_after": board.wait_for_cells(before)}


def read_only(bench: Bench) -> Observed:
    """With a read-only root: what is written to the system is gone after a power cut, results and backups are not."""
    board, machine = bench.board, bench.machine
    stored, known = board.stored()[1], board.identity()
    machine.need(f"{REST} && mount LABEL=bloodedge /mnt && cp -a {STATE}/. /mnt && umount /mnt", 400)
    machine.need("bloodedge device provision --board auto --read-only-root --yes 2>&1", 300)
    machine.need(f"mv {STATE} {STATE}.before")
    restart(bench, "overlay")
    must(board.identity() == known, "the results are others")
    before = board.wait_for_cells(stored)
    machine.need("systemctl start bloodedge-backup.service", 400)
    machine.need("echo hello > /etc/written && sync && test -s /etc/written")
    machine.cut()
    machine.power_on()
    board.wait_ready(READY_AGAIN_S)
    must(machine.sh("test -e /etc/written").code == 1, "what was written to the root is still there")
    no_unit_failed(machine)
    after = board.stored()[1]
    must(after >= before and board.identity() == known, "results were lost")
    machine.need(f"{PYTHON} -m zipfile -t {STATE}/backup/day-*.zip")
    return {
        "root": doctors_sentence(board, "root"),
        "results": machine.need(f"findmnt -n -o SOURCE,FSTYPE {STATE}"),
        "backup": machine.need(f"ls {STATE}/backup"),
        "cells_before": stored,
        "cells_after": after,
    }


def restart(bench: Bench, root: str) -> None:
    """Have the board start again, with a root of another type."""
    bench.machine.send("reboot")
    bench.machine.until(lambda: bench.machine.need("findmnt -n -o FSTYPE /") == root, 900, f"the root is not {root}")
    bench.board.wait_ready(READY_AGAIN_S)


def doctors_sentence(board: Board, name: str) -> str:
    """What the doctor says of one thing, which must be well."""
    _, said = board.bloodedge("device", "doctor", "--json", "-")
    (finding,) = (one for one in json.loads(said)["findings"] if one["name"] == name)
    must(finding["level"] == "ok", f"doctor: {finding}")
    return str(finding["sentence"])


def writable_again(bench: Bench) -> Observed:
    """The read-only root is given up again from within, as the handbook says; the results come along."""
    board, machine = bench.board, bench.machine
    stored, known = board.stored()[1], board.identity()
    machine.need(f"mount --bind /boot/firmware /media/root-ro/boot/firmware && {REST}", 400)
    machine.need("overlayroot-chroot bloodedge device provision --board auto --yes 2>&1", 300)
    machine.need(f"mount -o remount,rw /media/root-ro && cp -a {STATE} /media/root-ro/var/lib/")
    restart(bench, "ext4")
    no_unit_failed(machine)
    must(board.identity() == known and board.stored()[1] >= stored, "the results did not come along")
    must(machine.sh(f"mountpoint -q {STATE}").code != 0, "the partition is still in use")
    return {
        "root": doctors_sentence(board, "root"),
        "cells_before": stored,
        "cells_after": board.wait_for_cells(stored),
    }


def undone(bench: Bench) -> Observed:
    """The package removed: the service and its units are gone, settings and results stay; purged: results stay."""
    machine = bench.machine
    machine.need(f"echo '# by hand' >> {CONFIG}")
    machine.need("dpkg -r bloodedge-device 2>&1", 300)
    for gone in (f"systemctl cat {SERVICE}", "test -e /opt/bloodedge", "test -e /usr/bin/bloodedge"):
        must(machine.sh(gone).code != 0, f"after the removal there is: {gone}")
    must(machine.need(f"tail -n 1 {CONFIG}") == "# by hand", "settings changed by hand are gone")
    said = machine.need("dpkg -P bloodedge-device 2>&1", 300)
    must(machine.sh(f"test -e {STATE}/device.sqlite").code == 0, "results are gone")
    must(machine.sh("test -e /etc/bloodedge").code != 0, "settings are still there")
    return {"said": said.splitlines()[-1]}


CHECKS: dict[str, Callable[[Bench], Observed]] = {
    check.__name__: check
    for check in (
        first_start, system, confined, page, timers, retention, killed, hung, wrong_settings, camera_away, panic,
        dead_kernel, updated, power_cuts, upgraded, read_only, writable_again, undone,
    )
}  # fmt: skip


def main() -> int:
    """Make the card, put it in, and go through the checks."""
    options = parse()
    if (reason := why_not()) is not None:
        print(f"No virtual board can be had here: {reason}.")
        return 2
    with tempfile.TemporaryDirectory(prefix="bloodedge-boot-") as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        bench = prepare(folder, options)
        result: dict[str, Any] = {
            "command": f"python benchmarks/boot/run.py --suite {options.suite} --cuts {options.cuts}"
            + (f" --only {' '.join(options.only)}" if options.only else ""),
            "sittings": 1,
            "board": {},
            "checks": [],
        }
        if options.resume:
            result = resumed(options.json, result)
            bench.machine.power_on()
            bench.board.wait_ready(READY_AGAIN_S)
        done = {row["check"] for row in result["checks"]}
        for check in (one for one in options.only or CHECKS if one not in done):
            result["checks"].append(go_through(bench, check))
            result["board"] = result["board"] or about(bench, options.suite)
            write_json(options.json, result)
        bench.machine.cut()
    held = all(row["holds"] for row in result["checks"])
    print("All holds." if held else "NOT all holds.")
    return 0 if held else 1


def resumed(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """What was recorded before, but for what did not hold and all that came after it."""
    before = json.loads(path.read_text())
    rows = list(itertools.takewhile(lambda row: row["holds"], before["checks"]))
    return {**result, "sittings": before["sittings"] + 1, "board": before["board"], "checks": rows}


def about(bench: Bench, suite: str) -> dict[str, str]:
    """What the machine runs."""
    try:
        systemd, kernel = bench.machine.need("systemctl --version | head -n 1; uname -r").splitlines()
    except MachineError:
        return {}
    return {"suite": suite, "systemd": systemd, "kernel": kernel, "package": bench.supplies.package.name}


def go_through(bench: Bench, name: str) -> dict[str, Any]:
    """One check, told as it ends."""
    check = CHECKS[name]
    try:
        seen, holds = check(bench), True
    except (MachineError, ValueError, KeyError, IndexError) as error:
        seen, holds = {"failed": str(error)}, False
    print(f"{'holds' if holds else 'FAILS'}  {name}: {check.__doc__}\n       {seen}", flush=True)
    return {"check": name, "what": " ".join((check.__doc__ or "").split()), "holds": holds, "seen": seen}


def prepare(folder: Path, options: argparse.Namespace) -> Bench:
    """The card, its boot partition, an empty disk for results, and a machine to put them in."""
    supplies = Supplies(folder / "supplies", options.suite, options.package, again=options.resume)
    if options.resume:
        disks = [folder / name for name in DISKS]
        return Bench(
            Board(Machine(folder, folder / "vmlinuz", folder / "initrd.img", disks)),
            supplies,
            random.Random(0),
            options.cuts,
        )
    root = options.cache / options.suite
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        image.make_root(root, options.suite)
        (root / "complete").touch()
    kernel, initrd = image.kernel_of(root, folder)
    card = folder / "card.raw"
    image.disk(root, card, {"srv/frames.bgr": fields(options.data)})
    image.boot_disk(supplies.boot_partition(), folder / "boot.raw")
    image.state_disk(folder / "state.raw")
    image.over(card, folder / "card.qcow2")
    machine = Machine(folder, kernel, initrd, [folder / name for name in DISKS])
    return Bench(Board(machine), supplies, random.Random(0), options.cuts)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=image.SUITES, default="trixie")
    parser.add_argument("--package", type=Path, help="an amd64 package with OpenVINO; default: one is built")
    parser.add_argument("--cuts", type=int, default=10, help="power cuts")
    repo = BENCHMARKS.parent
    parser.add_argument("--data", type=Path, default=os.environ.get("BLOODEDGE_DATA", repo.parent / "shared" / "data"))
    parser.add_argument("--cache", type=Path, default=repo / ".cache" / "boot", help="where roots are kept")
    parser.add_argument("--only", nargs="+", choices=CHECKS, help="only these; each needs first_start before it")
    parser.add_argument("--resume", action="store_true", help="go on in the --keep folder from what did not hold")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    parser.add_argument("--json", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
