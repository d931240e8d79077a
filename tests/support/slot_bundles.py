"""Signed bundles made from the released one: other serials, and ones that fail in one way each."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bloodedge.bundle import MANIFEST, zip_files
from bloodedge.signing.keys import new_key, read_private_key
from bloodedge.signing.signature import sign_bundle
from bloodedge.signing.trust import trust
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.slot_record import Record
from bloodedge_device.bundles.switch import mark_good
from bloodedge_device.bundles.trial import Trial
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.settings.sections import WebSettings
from bloodedge_device.timings import Timings

RELEASED = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"
NAME = "lymph"

HURRIED = Timings(services_every_s=0.05, probation_check_s=0.1, probation_saved_s=0.1)
"""The daemon looks at the slots all the time."""

Files = dict[str, bytes]
Change = Callable[[dict[str, Any], Files], None]

TRIED = Trial(engine="litert", precision="int8", golden="32 of 32", latency_ms=1.0, memory_mb=50.0)


def tried(_settings: DeviceSettings, _path: Path) -> Trial:
    """A trial that all goes well in, at once."""
    return TRIED


@dataclass
class Laboratory:
    """Makes and signs bundles, and has a board that trusts it."""

    folder: Path
    state: Path

    def __post_init__(self) -> None:
        self.key, _, public = new_key("lab", self.folder / "keys")
        trust(self.state / "trust", public)

    def settings(self, **values: object) -> DeviceSettings:
        """Of the board."""
        board = {"state": self.state, "engine": "litert", "web": WebSettings(enabled=False), **values}
        return DeviceSettings.model_validate(board)

    def bundle(self, serial: int, change: Change | None = None, *, signed: bool = True) -> Path:
        """A bundle of this serial, changed before it is signed."""
        with zipfile.ZipFile(RELEASED) as archive:
            files = {name: archive.read(name) for name in archive.namelist() if not name.startswith("report.")}
        manifest = json.loads(files.pop(MANIFEST))
        manifest.update(serial=serial, name=NAME)
        if change is not None:
            change(manifest, files)
        manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
        path = self.folder / f"{serial}.bundle"
        zip_files({**files, MANIFEST: json.dumps(manifest).encode()}, path)
        if signed:
            sign_bundle(path, read_private_key(self.key), when=datetime(2026, 1, 1, tzinfo=UTC))
        return path


def wrong_outputs(_manifest: dict[str, Any], files: Files) -> None:
    """The golden cells' float outputs are another network's."""
    with np.load(io.BytesIO(files["golden.npz"])) as stored:
        inputs, probabilities = stored["inputs"], stored["probabilities"]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=inputs, probabilities=probabilities[:, ::-1])
    files["golden.npz"] = buffer.getvalue()


def always_uncertain(manifest: dict[str, Any], _files: Files) -> None:
    """Every cell lies in the band where the network abstains."""
    manifest["thresholds"].update(uncertain_low=0.0, uncertain_high=1.0)


def only_openvino(manifest: dict[str, Any], _files: Files) -> None:
    """Nothing in it runs on LiteRT."""
    manifest["artifacts"] = [one for one in manifest["artifacts"] if one["engine"] == "openvino"]


def proven(lab: Laboratory, serial: int) -> Record:
    """A bundle of this serial installed, and good."""
    done = install(lab.settings(), lab.bundle(serial), trial=tried)
    return mark_good(lab.state, done.what.sha256)
