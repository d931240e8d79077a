"""Disks of a virtual board: a Debian as a Raspberry Pi's card has one, with cloud-init and a boot partition."""

import os
import shutil
import subprocess
from pathlib import Path

SUITES = {"bookworm": "python3.11", "trixie": "python3.13"}
"""Releases of Debian, and the Python that each has."""
INCLUDE = (
    "linux-image-amd64", "systemd-sysv", "udev", "dbus", "kmod", "sudo", "initramfs-tools", "busybox",
    "systemd-timesyncd", "systemd-zram-generator", "overlayroot", "e2fsprogs", "cloud-init",
    "libstdc++6", "libgomp1", "locales",
    "qemu-guest-agent", "v4l-utils",  # what the board is driven and looked at with
)  # fmt: skip
BOOT = "boot/firmware"
FSTAB = f"/dev/vda / ext4 defaults,noatime 0 1\nLABEL=CIDATA /{BOOT} vfat defaults,nofail 0 2\n"
DISK_GIB = 4

# The kernel's virtual video driver: frames written to its S-Video output arrive at its S-Video input, 25 a second. The
# name below by-id is what udev gives to a USB camera.
CAMERA_MODULE = "options vivid n_devs=1 node_types=0x101 num_inputs=1 input_types=2 num_outputs=1 output_types=0"
CAMERA_MODULE += " ccs_cap_mode=0 ccs_out_mode=0 no_error_inj=1\n"
CAMERA = "/dev/v4l/by-id/usb-Virtual_Microscope-video-index0"
CAMERA_RULE = f"""
SUBSYSTEM=="video4linux", ATTR{{name}}=="vivid-*-vid-cap", SYMLINK+="{CAMERA.removeprefix("/dev/")}"
SUBSYSTEM=="video4linux", ATTR{{name}}=="vivid-*-vid-out", SYMLINK+="microscope-stage"
"""


STAGE = f"""[Unit]
Description=What lies under the virtual microscope
Before=bloodedge-device.service

[Service]
ExecStartPre=/usr/bin/v4l2-ctl -d {CAMERA} --set-ctrl=osd_text_mode=2
# The cable from output to input: up to Linux 6.11, and since.
ExecStartPre=-/usr/bin/v4l2-ctl -d {CAMERA} --set-ctrl=loop_video=1
ExecStartPre=-/usr/bin/v4l2-ctl -d {CAMERA} --set-ctrl=s_video_000_0_is_connected_to=2
ExecStartPre=/usr/bin/v4l2-ctl -d /dev/microscope-stage --set-fmt-video-out=pixelformat=BGR3
ExecStart=/usr/bin/v4l2-ctl -d /dev/microscope-stage --stream-out-mmap --stream-from=/srv/frames.bgr --stream-loop
StandardOutput=null
StandardError=null
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


class ImageError(Exception):
    """A disk could not be made."""


def make_root(folder: Path, suite: str) -> None:
    """A clean Debian with a kernel, and a camera of which it knows nothing special."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    include = f"--include={','.join((*INCLUDE, SUITES[suite]))}"
    run(["mmdebstrap", "--variant=minbase", include, "--quiet", suite, str(folder)])
    write(folder / "etc/fstab", FSTAB)
    write(folder / "etc/hostname", "blank\n")
    write(folder / "etc/modules-load.d/vivid.conf", "vivid\ni6300esb\n")
    write(folder / "etc/modprobe.d/vivid.conf", CAMERA_MODULE)
    write(folder / "etc/udev/rules.d/60-virtual-microscope.rules", CAMERA_RULE)
    write(folder / "etc/cloud/cloud.cfg.d/99-card.cfg", "datasource_list: [NoCloud, None]\n")
    (folder / BOOT).mkdir(parents=True, exist_ok=True)
    units = folder / "etc/systemd/system"
    write(units / "microscope-stage.service", STAGE)
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "microscope-stage.service").symlink_to("../microscope-stage.service")
    # There is no network to wait for.
    (units / "systemd-networkd-wait-online.service").symlink_to("/dev/null")
    # As a system that has started before: it makes users of new sysusers.d files no more by itself.
    (folder / "etc/.updated").touch()
    # An image's machine id is made at its first start.
    write(folder / "etc/machine-id", "uninitialized\n")


def kernel_of(root: Path, folder: Path) -> tuple[Path, Path]:
    """Copies of (kernel, initial memory disk)."""
    found = []
    for name in ("vmlinuz", "initrd.img"):
        (source,) = (root / "boot").glob(f"{name}-*")
        found.append(Path(shutil.copy(source, folder / name)))
    return found[0], found[1]


def disk(root: Path, target: Path, more: dict[str, bytes]) -> None:
    """An ext4 disk with what a root holds and more files by path; empty space takes none."""
    for path, content in more.items():
        (root / path).write_bytes(content)
    with target.open("wb") as handle:
        handle.truncate(DISK_GIB << 30)
    run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(target)])


def state_disk(target: Path, label: str = "bloodedge", mib: int = 512) -> None:
    """An empty ext4 disk for the results of a board with a read-only root."""
    with target.open("wb") as handle:
        handle.truncate(mib << 20)
    run(["mkfs.ext4", "-q", "-F", "-L", label, str(target)])


def boot_disk(files: dict[str, bytes], target: Path, mib: int = 512) -> None:
    """The partition that every computer can read, with files by name."""
    with target.open("wb") as handle:
        handle.truncate(mib << 20)
    run(["mkfs.vfat", "-n", "CIDATA", str(target)])
    for name, content in files.items():
        part = target.with_name(name)
        part.write_bytes(content)
        run(["mcopy", "-i", str(target), str(part), f"::{name}"])
        part.unlink()


def over(base: Path, target: Path) -> None:
    """A disk that begins as another and keeps its own changes."""
    target.unlink(missing_ok=True)
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base.resolve()), "-F", base.suffix[1:], str(target)])


def write(path: Path, text: str) -> None:
    """Write a file of the root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(command: list[str]) -> None:
    """Run a command that has to work."""
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ImageError(f"{command[0]} failed: {done.stderr.strip()[-600:]}")
