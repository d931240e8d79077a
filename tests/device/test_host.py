"""The process keeps to the cores that it is given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bloodedge.errors import UsageError
from bloodedge_device.system.process import keep_to_cores
from support.needs import needs

TWO = len(os.sched_getaffinity(0)) > 1

LOOK = """
import os, threading
from bloodedge_device.system.process import keep_to_cores
keep_to_cores([{core}])
seen = []
thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
thread.start(); thread.join()
print(os.sched_getaffinity(0), *seen)
"""


def affinity(task: Path) -> str:
    return (task / "status").read_text().split("Cpus_allowed_list:")[1].split()[0]


@pytest.mark.skipif(not TWO, reason="this machine has one core")
def test_threads_begun_later_keep_to_the_same_cores() -> None:
    core = max(os.sched_getaffinity(0))
    done = subprocess.run([sys.executable, "-c", LOOK.format(core=core)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{{{core}}}"] * 2


def test_a_core_that_is_not_there_is_named_with_those_that_are() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(UsageError, match=f"no core 4095; choose from {', '.join(map(str, sorted(before)))}"):
        keep_to_cores([min(before), 4095])
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not TWO, reason="this machine has one core")
@needs("pgrep")
def test_the_daemon_keeps_to_its_cores_and_leaves_the_camera_all(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    config = tmp_path / "device.toml"
    config.write_text(f'cores = [{core}]\nengine = "litert"\nstate = "state"\n[web]\nenabled = false\n')
    command = [sys.executable, "-m", "bloodedge", "device", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if "READY" in line:
                break
        own = [affinity(task) for task in Path(f"/proc/{daemon.pid}/task").iterdir()]
        children = subprocess.run(["pgrep", "-P", str(daemon.pid)], capture_output=True, text=True, check=True)
        camera = affinity(Path(f"/proc/{children.stdout.split()[0]}"))
        daemon.terminate()
        daemon.communicate(timeout=30)
    assert set(own) == {str(core)}
    assert len(own) > 2
    assert camera != str(core)
    assert daemon.returncode == 0
