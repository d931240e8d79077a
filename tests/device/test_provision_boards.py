from pathlib import Path

import pytest

from bloodedge.errors import UsageError
from bloodedge_device.provision.boards import recognise


@pytest.mark.parametrize(
    ("model", "cpu", "machine", "board"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0\0", "", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi 4 Model B Rev 1.4\0", "", "aarch64", "raspberry-pi-4"),
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


def test_a_processor_that_nothing_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="64-bit Arm and x86"):
        recognise(tmp_path, "riscv64")
