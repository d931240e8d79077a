"""What comes to the virtual board from outside: the package, the card's first-boot text, keys and bundles."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from stage import BENCHMARKS, RELEASED

from bloodedge.bundle import MANIFEST, zip_files
from bloodedge.signing.keys import new_key, read_private_key
from bloodedge.signing.signature import sign_bundle

sys.path.insert(0, str(BENCHMARKS))
import deb
from hostile import turn_a_bit

USER_DATA = BENCHMARKS.parent / "firmware_configs" / "image" / "user-data"


class Supplies:
    """Made once, in a folder of their own."""

    def __init__(self, folder: Path, suite: str, package: Path | None, *, again: bool = False) -> None:
        self.folder = folder
        keys, strangers = folder / "keys", folder / "strangers"
        if again:
            self.package = package or next(folder.glob("*.deb"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.package = package or deb.build(folder, "--openvino", "--suite", suite)
            new_key("laboratory", keys)
            new_key("stranger", strangers)
        self._key, self._public = keys / "laboratory.key", keys / "laboratory.pub"
        self._stranger = strangers / "stranger.key"

    def boot_partition(self) -> dict[str, bytes]:
        """Files by name, as a person copies them there."""
        files = (USER_DATA, self.package, self._public)
        return {"meta-data": b"", **{path.name: path.read_bytes() for path in files}}

    @property
    def newer(self) -> Path:
        """The package again, of a later version, with one line more in a unit."""
        folder = self.folder / "newer"
        made = folder.with_suffix(".deb")
        if not made.exists():
            deb.newer(self.package, folder)
            # Again, smaller: it goes over the agent's narrow channel.
            subprocess.run(["dpkg-deb", "-Zzstd", "-z3", "--build", folder, made], check=True, capture_output=True)
        return made

    def serial(self, step: int) -> int:
        """The serial of a newer bundle."""
        with zipfile.ZipFile(RELEASED) as archive:
            return int(json.loads(archive.read(MANIFEST))["serial"]) + step

    def signed(self, step: int) -> Path:
        """The released bundle with a higher serial, signed by the laboratory."""
        return self._bundle(f"serial-{step}", step, self._key)

    def hostile(self) -> dict[str, tuple[Path, str]]:
        """Bundles that no board may take, and what it has to say of each."""
        return {
            "unsigned": (self._bundle("unsigned", 2, None), "is not signed"),
            "a stranger's": (self._bundle("stranger", 2, self._stranger), "which is not trusted here"),
            "changed": (turn_a_bit(self._bundle("changed", 3, self._key), "int8.bin"), "was changed after conversion"),
        }

    def _bundle(self, name: str, step: int, key: Path | None) -> Path:
        with zipfile.ZipFile(RELEASED) as archive:
            files = {one: archive.read(one) for one in archive.namelist()}
        manifest = json.loads(files.pop(MANIFEST))
        manifest["serial"] = self.serial(step)
        manifest["files"] = {one: hashlib.sha256(data).hexdigest() for one, data in sorted(files.items())}
        path = self.folder / f"{name}.bundle"
        zip_files({**files, MANIFEST: json.dumps(manifest).encode()}, path)
        if key is not None:
            sign_bundle(path, read_private_key(key), when=datetime(2026, 1, 1, tzinfo=UTC))
        return path
