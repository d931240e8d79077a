from pathlib import Path

import pytest

from bloodedge.errors import UsageError
from bloodedge_device.provision.boards import recognise
from bloodedge_device.provision.content import board_files


@pytest.mark.parametrize(
    ("model", "cpu", "machine", "board"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0\0", "", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi 500 Rev 1.0\0", "", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi 4 Model B Rev 1.4\0", "", "aarch64", "raspberry-pi-4"),
        ("Raspberry Pi 400 Rev 1.0\0", "", "aarch64", "raspberry-pi-4"),
        ("Raspberry Pi Compute Module 4S Rev 1.0\0", "", "aarch64", "raspberry-pi-4"),
        ("Raspberry Pi Zero 2 W Rev 1.0\0", "", "aarch64", "raspberry-pi-zero-2w"),
        ("Radxa ROCK 5B\0", "", "aarch64", "generic-arm64"),
        (None, "model name\t: Intel(R) N100\n", "x86_64", "intel-n100"),
        (None, "model name\t: AMD EPYC 7B13\n", "x86_64", "generic-x86-64"),
    ],
)
def test_a_board_is_recognised_by_what_it_says_of_itself(
    tmp_path: Path, model: str | None, cpu: str, machine: str, board: str
) -> None:
    if model is not None:
        (tmp_path / "proc/device-tree").mkdir(parents=True)
        (tmp_path / "proc/device-tree/model").write_text(model)
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc/cpuinfo").write_text(cpu)

    assert recognise(tmp_path, machine) == board


def test_a_raspberry_pi_without_a_profile_is_no_board_of_another_make(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 3 Model B Plus Rev 1.3\0")
    with pytest.raises(UsageError, match=r"most similar one with --board: raspberry-pi-4, .*raspberry-pi-zero-2w\."):
        recognise(tmp_path, "aarch64")


def test_a_processor_that_nothing_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="64-bit Arm and x86"):
        recognise(tmp_path, "riscv64")


def test_swap_is_in_memory_by_the_means_that_the_system_has(tmp_path: Path) -> None:
    paths = board_files("generic-arm64", tmp_path, False)
    assert "zram-size" in paths["etc/systemd/zram-generator.conf.d/50-bloodedge.conf"].text
    assert not any(path.startswith("etc/rpi") for path in paths)

    (tmp_path / "etc/rpi").mkdir(parents=True)
    (tmp_path / "etc/rpi/swap.conf").write_text("[Main]\n")  # Raspberry Pi OS since trixie
    paths = board_files("generic-arm64", tmp_path, False)
    assert "Mechanism=zram" in paths["etc/rpi/swap.conf.d/50-bloodedge.conf"].text
    assert not any("zram-generator" in path for path in paths)


def test_a_swap_file_on_the_card_is_switched_off(tmp_path: Path) -> None:
    service = "etc/systemd/system/dphys-swapfile.service"
    assert service not in board_files("generic-arm64", tmp_path, False)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/dphys-swapfile").write_text("CONF_SWAPSIZE=512\n")  # Raspberry Pi OS before trixie
    assert board_files("generic-arm64", tmp_path, False)[service].text == "/dev/null"


def test_a_pi_s_kernel_is_told_to_keep_account_of_memory(tmp_path: Path) -> None:
    (tmp_path / "boot/firmware").mkdir(parents=True)
    for name in ("config.txt", "cmdline.txt"):
        (tmp_path / "boot/firmware" / name).write_text("")
    words = board_files("raspberry-pi-5", tmp_path, False)["boot/firmware/cmdline.txt"].text.split()
    assert "cgroup_enable=memory" in words
    assert not any("#" in word for word in words)
