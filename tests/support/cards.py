"""A made-up Raspberry Pi card, and what the tests of provisioning do with it."""

import hashlib
from pathlib import Path

from click.testing import CliRunner, Result

from bloodedge_device.cli.provision import provision_command

CONFIG = "dtparam=audio=on\n[cm4]\notg_mode=1\n"
CMDLINE = "console=tty1 root=PARTUUID=0-02 rootwait\n"
ADDED = "quiet logo.nologo panic=10 cgroup_enable=memory"
AARCH64, X86_64 = 183, 62
"""e_machine of an ELF file."""


def make_card(root: Path) -> Path:
    """What provisioning looks for in a root file system."""
    for folder in ("etc", "usr/bin", "boot/firmware"):
        (root / folder).mkdir(parents=True)
    (root / "boot/firmware/config.txt").write_text(CONFIG)
    (root / "boot/firmware/cmdline.txt").write_text(CMDLINE)
    make_architecture(root, AARCH64)
    return root


def make_architecture(root: Path, machine: int) -> None:
    """Programs of another processor."""
    (root / "usr/bin/dpkg").write_bytes(b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little"))


def provision(root: Path, *arguments: str) -> Result:
    """``bloodedge device provision --root ROOT ...``."""
    return CliRunner().invoke(provision_command, ["--root", str(root), *arguments])


def pi(root: Path, *arguments: str) -> Result:
    """As a Raspberry Pi 5."""
    return provision(root, "--board", "raspberry-pi-5", *arguments)


def contents(root: Path) -> dict[str, str]:
    """Digests of all files by path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }
