"""A virtual board: QEMU, no network, driven through the guest agent; it can be cut off at any moment.

The processor is emulated, so that nothing here says how fast a board is. The disk file outlives a cut as a disk without
a write cache of its own would: what the guest's kernel had not yet sent to it is lost, as it is on a board.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

QEMU = "qemu-system-x86_64"
CPU = "max,avx2=off"
"""All that is emulated but AVX2, whose gathering loads QEMU 7.2 takes from wrong addresses: numpy's minimum crashed."""
NEEDS = (QEMU, "qemu-img", "mmdebstrap", "mkfs.ext4", "mkfs.vfat", "mcopy")
ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
PIECE = 48_000
"""Bytes at a time through the agent, which takes no message of over 64 KiB."""


class MachineError(Exception):
    """The machine did not do what was asked of it."""


@dataclass(frozen=True)
class Done:
    """What came of a command in the machine."""

    code: int
    out: str
    err: str


def why_not() -> str | None:
    """Why no virtual board can be had here, in words."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in NEEDS if shutil.which(program, path=path) is None]
    if missing:
        return f"{', '.join(missing)} missing (apt install qemu-system-x86 qemu-utils mmdebstrap dosfstools mtools)"
    if os.geteuid() != 0:
        return "making a Debian root needs root"
    return None


class Machine:
    """One board. ``kernel`` and ``initrd`` come from its image; disks are given in the order of their names."""

    def __init__(self, folder: Path, kernel: Path, initrd: Path, disks: list[Path], memory_mb: int = 2048) -> None:
        self.folder = folder
        self.log = folder / "console.log"
        self._kernel, self._initrd, self._disks, self._memory_mb = kernel, initrd, disks, memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._agent: socket.socket | None = None
        self._buffer = b""
        self.powered_s = 0.0

    def power_on(self) -> None:
        """Start from the disks as they are; does not wait."""
        path = self.folder / "agent.sock"
        path.unlink(missing_ok=True)
        words = [QEMU, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", CPU]
        words += ["-smp", "2", "-m", str(self._memory_mb)]
        words += ["-nic", "none", "-display", "none", "-nodefaults", "-device", "virtio-rng-pci"]
        words += ["-kernel", str(self._kernel), "-initrd", str(self._initrd)]
        words += ["-append", "root=/dev/vda ro console=ttyS0 loglevel=4 panic=5"]
        for disk in self._disks:
            words += ["-drive", f"file={disk},format={disk.suffix[1:]},if=virtio,discard=unmap"]
        words += ["-serial", f"file:{self.log}", "-device", "virtio-serial"]
        words += ["-chardev", f"socket,path={path},server=on,wait=off,id=agent"]
        words += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        # A watchdog in hardware, as boards have one: it resets a machine that no longer feeds it.
        words += ["-device", "i6300esb", "-action", "watchdog=reset"]
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.powered_s = monotonic()

    def cut(self) -> None:
        """Take the power away."""
        self._forget_agent()
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def wait_off(self, within_s: float) -> None:
        """Wait until the machine has powered itself off."""
        assert self._process is not None
        self._process.wait(within_s)
        self._process = None
        self._forget_agent()

    def wait_up(self, within_s: float = 120) -> None:
        """Wait until commands can be given; also after a reboot."""
        self.until(lambda: self._ask("guest-ping", {}, 2) == {}, within_s, "the machine did not come up")

    def until(self, condition: Callable[[], Any], within_s: float, what: str, every_s: float = 0.3) -> Any:
        """Wait for something true; MachineError with the console's end when it does not come."""
        end_s = monotonic() + within_s
        while True:
            with suppress(MachineError):
                if found := condition():
                    return found
            if self._process is None or self._process.poll() is not None:
                raise MachineError(f"{what}: {QEMU} has ended: {(self.folder / 'qemu.log').read_text()[-500:]}")
            if monotonic() > end_s:
                raise MachineError(f"{what} within {within_s:g} s; the console's end:\n{self.console()[-1500:]}")
            sleep(every_s)

    def console(self) -> str:
        """What the serial console has shown since the power came on."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def sh(self, script: str, within_s: float = 120) -> Done:
        """Run a shell script as root."""
        asked = {"path": "/bin/sh", "arg": ["-c", script], "env": ENVIRONMENT, "capture-output": True}
        pid = self._ask("guest-exec", asked, 20)["pid"]
        end_s = monotonic() + within_s
        while not (status := self._ask("guest-exec-status", {"pid": pid}, 20))["exited"]:
            if monotonic() > end_s:
                raise MachineError(f"still running after {within_s:g} s: {script[:200]}")
            sleep(0.1)
        out, err = (b64decode(status.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data"))
        return Done(status.get("exitcode", 128 + status.get("signal", 0)), out, err)

    def need(self, script: str, within_s: float = 120) -> str:
        """Run a shell script as root that has to work, and give its output."""
        done = self.sh(script, within_s)
        if done.code:
            raise MachineError(f"exit code {done.code} of: {script[:200]}\n{done.out[-800:]}{done.err[-1500:]}")
        return done.out.strip()

    def send(self, script: str) -> None:
        """Start a command that will not be waited for, such as a reboot."""
        self._ask("guest-exec", {"path": "/bin/sh", "arg": ["-c", script]}, 20)

    def put(self, content: bytes, path: str) -> None:
        """Write a file in the machine, as root's."""
        handle = self._ask("guest-file-open", {"path": path, "mode": "wb"}, 20)
        for start in range(0, len(content), PIECE):
            piece = b64encode(content[start : start + PIECE]).decode()
            self._ask("guest-file-write", {"handle": handle, "buf-b64": piece}, 60)
        self._ask("guest-file-close", {"handle": handle}, 60)

    def _ask(self, what: str, arguments: dict[str, Any], within_s: float) -> Any:
        try:
            if self._agent is None:
                self._connect()
            assert self._agent is not None
            self._agent.settimeout(within_s)
            self._agent.sendall(json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n")
            answer = json.loads(self._line())
        except (OSError, ValueError) as error:
            self._forget_agent()
            raise MachineError(f"the machine's agent does not answer ({error})") from error
        if "error" in answer:
            raise MachineError(f"{what}: {answer['error'].get('desc')}")
        return answer["return"]

    def _connect(self) -> None:
        agent = socket.socket(socket.AF_UNIX)
        agent.settimeout(2)
        agent.connect(str(self.folder / "agent.sock"))
        self._agent, self._buffer = agent, b""
        # Old answers of an agent that was left in mid-sentence are passed over.
        token = int(monotonic() * 1e6) % 2**31
        asked = {"execute": "guest-sync-delimited", "arguments": {"id": token}}
        agent.sendall(b"\xff" + json.dumps(asked).encode() + b"\n")
        while json.loads(self._line().rpartition(b"\xff")[2] or b"null") != {"return": token}:
            pass

    def _line(self) -> bytes:
        assert self._agent is not None
        while b"\n" not in self._buffer:
            got = self._agent.recv(65536)
            if not got:
                raise OSError("it has gone")
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _forget_agent(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None
