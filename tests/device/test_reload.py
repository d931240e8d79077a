"""Other settings come into force between two frames, or not at all; without a network, a camera and a loop."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.daemon import reload
from bloodedge_device.daemon.reload import Switcher
from bloodedge_device.health import Level
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import DiskFullError, Store, queries
from support import fakes
from support.web_fakes import FakeDaemon, busy_daemon


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = busy_daemon(state)
    with closing(daemon.store):
        yield daemon


@pytest.fixture
def switcher(daemon: FakeDaemon) -> Switcher:
    return Switcher(daemon.state, daemon.slides, Event())


def relabelled(daemon: FakeDaemon) -> DeviceSettings:
    slide = daemon.settings.slide.model_copy(update={"label": "New"})
    return daemon.settings.model_copy(update={"slide": slide})


def labels(daemon: FakeDaemon) -> list[str]:
    return [slide.label for slide in queries.slides(daemon.settings.state, 100, 100)]


def test_settings_that_are_wrong_leave_the_old_ones_in_force(daemon: FakeDaemon, switcher: Switcher) -> None:
    def reread() -> DeviceSettings:
        raise UsageError("camera.rate must be above 0.")

    switcher.reload(reread)
    switcher.switch()
    condition = daemon.state.health.conditions()["settings"]
    assert condition.level is Level.WARNING
    assert condition.sentence.endswith("the old settings stay in force. camera.rate must be above 0.")
    assert daemon.state.settings is daemon.settings
    assert labels(daemon) == ["Specimen 12"]


def test_a_reload_begins_a_new_run_and_goes_on_with_the_slide(daemon: FakeDaemon, switcher: Switcher) -> None:
    switcher.reload(lambda: relabelled(daemon))
    assert switcher.has_next
    assert labels(daemon) == ["Specimen 12"]  # nothing changes before the current frame is done
    switcher.switch()
    assert (labels(daemon), daemon.state.settings.slide.label) == (["New", "Specimen 12"], "New")
    daemon.see([0.9])
    slide = daemon.state.snapshot().slide
    assert slide is not None
    assert (slide.id, slide.counts.cells_total) == (2, 1)
    assert slide.share.estimate.rates_known  # the network's errors are known on the new slide too


def test_what_takes_a_restart_stays_as_it_is(
    daemon: FakeDaemon, switcher: Switcher, caplog: pytest.LogCaptureFixture
) -> None:
    switcher.reload(lambda: daemon.settings.model_copy(update={"cores": (1,)}))
    assert not switcher.has_next
    assert "cores was changed; restart the daemon for it." in caplog.text


def test_another_network_takes_over_and_its_faults_begin_at_none(daemon: FakeDaemon, switcher: Switcher) -> None:
    daemon.state.faults.faults = daemon.state.faults.in_a_row = 3
    loaded = fakes.make_loaded()
    switcher.take_over(daemon.settings, loaded)
    switcher.switch()
    assert daemon.state.loaded is loaded
    assert daemon.state.faults.in_a_row == 0
    assert labels(daemon) == ["Specimen 12", "Specimen 12"]


def test_a_switch_that_was_asked_for_before_the_settings_changed_is_dropped(
    daemon: FakeDaemon, switcher: Switcher
) -> None:
    before = daemon.state.loaded
    switcher.take_over(relabelled(daemon), fakes.make_loaded())
    switcher.switch()
    assert daemon.state.loaded is before
    assert not switcher.has_next


def test_a_full_disk_keeps_the_switch_waiting(
    daemon: FakeDaemon, switcher: Switcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise DiskFullError("The disk is full.")

    switcher.reload(lambda: relabelled(daemon))
    with monkeypatch.context() as broken:
        broken.setattr(Store, "begin_run", full)
        switcher.switch()
    assert (switcher.has_next, switcher.is_due) == (True, False)
    assert daemon.state.health.conditions()["run"].level is Level.FAILED
    assert daemon.slide == 1
    switcher.switch()
    assert daemon.state.health.conditions()["run"].level is Level.OK
    assert daemon.slide == 2


def test_a_bundle_that_may_no_longer_run_ends_the_daemon(daemon: FakeDaemon) -> None:
    interrupt = Event()
    switcher = Switcher(daemon.state, daemon.slides, interrupt)
    switcher.raise_refusal()
    switcher.refuse(BloodedgeError("Its key was revoked."))
    assert interrupt.is_set()
    with pytest.raises(BloodedgeError, match="revoked"):
        switcher.raise_refusal()


def test_a_reload_of_the_same_settings_changes_nothing(
    daemon: FakeDaemon, switcher: Switcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "load", lambda _: pytest.fail("a network was loaded"))
    switcher.reload(lambda: daemon.settings)
    assert not switcher.has_next
    assert daemon.state.health.conditions()["settings"].level is Level.OK
