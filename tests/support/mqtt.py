"""Brokers, what listens to one, and an outbox: for whatever publishes over MQTT."""

import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import programs
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from bloodedge_device.outputs.home_assistant import StatusPayload
from bloodedge_device.store.outbox import Message
from support import ROOT
from support.needs import required

CONFIGS = ROOT / "firmware_configs" / "broker"

STATUS = StatusPayload(
    blast_percent=None,
    blast_percent_low=None,
    blast_percent_high=None,
    blast_percent_called=None,
    verdict="",
    cells_called=0,
    cells_uncertain=0,
    leucocytes=0,
    leucocytes_missing=None,
    neutrophil_percent=None,
    lymphocyte_percent=None,
    frames_per_second=2.5,
    focus=0.51,
    slide="smear 7",
    camera="running",
    problem="",
)


@dataclass
class MemoryOutbox:
    """An outbox that forgets at the end of the process."""

    messages: list[Message] = field(default_factory=list)
    last: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int, more: str = "") -> None:
        with self.lock:
            first, self.last = self.last + 1, self.last + count
            new = [
                Message(n, f"frames/{n % 3}", json.dumps({"n": n, **({"more": more} if more else {})}).encode())
                for n in range(first, first + count)
            ]
            self.messages.extend(new)

    def waiting(self, after: int, limit: int) -> list[Message]:
        with self.lock:
            return [message for message in self.messages if message.id > after][:limit]

    def delivered(self, up_to: int) -> None:
        with self.lock:
            self.messages = [message for message in self.messages if message.id > up_to]

    def __len__(self) -> int:
        return len(self.messages)


class Broker(programs.Broker):
    """A Mosquitto on a port of its own, which can be started again; without Mosquitto the test skips."""

    def __init__(self, folder: Path, *lines: str) -> None:
        required("mosquitto")
        super().__init__(folder, *lines)


DEBIAN = Path("/etc/mosquitto/mosquitto.conf")
AS_DEBIAN_HAS_IT = """\
pid_file /run/mosquitto/mosquitto.pid
persistence true
persistence_location /var/lib/mosquitto/
log_dest file /var/log/mosquitto/mosquitto.log
include_dir /etc/mosquitto/conf.d
"""
"""Without its comments, for where Mosquitto did not come from Debian (2.0.11-1.2+deb12u2)."""


class DeployedBroker(Broker):
    """Mosquitto as Debian configures it with our file in conf.d, as they are but for paths and port."""

    def __init__(self, folder: Path, authority: Path, *, part: int = 1) -> None:
        """authority: a folder of certificates; part: the queue's limits are divided by it."""
        self._authority, self._part = authority, part
        super().__init__(folder)

    def configuration(self, folder: Path, _: tuple[str, ...]) -> str:
        text = (CONFIGS / "mosquitto.conf").read_text()
        assert text.count("listener 8883\n") == 1
        text = text.replace("listener 8883\n", f"listener {self.port} 127.0.0.1\n")
        text = text.replace("/etc/mosquitto/bloodedge", str(self._authority))
        text = re.sub(r"(?m)^(max_queued_\w+) (\d+)$", lambda found: f"{found[1]} {int(found[2]) // self._part}", text)
        (folder / "conf.d").mkdir()
        (folder / "conf.d" / "bloodedge.conf").write_text(text + ("user root\n" if os.geteuid() == 0 else ""))
        main = DEBIAN.read_text() if DEBIAN.is_file() else AS_DEBIAN_HAS_IT
        for place in ("/run/mosquitto", "/var/lib/mosquitto", "/var/log/mosquitto", "/etc/mosquitto"):
            main = main.replace(f" {place}/", f" {folder}/")
        return main

    def start(self) -> None:
        self._debians_log.unlink(missing_ok=True)
        super().start()

    def _answers(self) -> bool:
        return "running" in self.output  # a connection without a certificate would be in its log

    @property
    def output(self) -> str:
        """What it has said, also to the file that Debian configures."""
        return super().output + (self._debians_log.read_text() if self._debians_log.exists() else "")

    @property
    def _debians_log(self) -> Path:
        return self.log.with_name("mosquitto.log")


def certificates(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """What ``certificates.sh`` says."""
    command = ["sh", str(CONFIGS / "certificates.sh"), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_authority(folder: Path, *more: tuple[str, str]) -> Path:
    """A folder with the certificates of an authority, of its broker at 127.0.0.1 and of ``more`` (kind and name)."""
    for words in (("ca",), ("broker", "127.0.0.1"), *more):
        done = certificates(folder, *words)
        assert done.returncode == 0, done.stderr
    shutil.copy(CONFIGS / "acl", folder / "acl")
    return folder


class Listener:
    """Another machine that listens to everything."""

    def __init__(self, port: int) -> None:
        self.heard: list[MQTTMessage] = []
        self._subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, "listener", protocol=MQTTProtocolVersion.MQTTv5)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda _, __, message: self.heard.append(message)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._subscribed.wait(10)

    def ids(self) -> list[int]:
        """Of the outbox's messages, in the order of arrival."""
        return [int(dict(m.properties.UserProperty)["id"]) for m in self.heard if "/frames/" in m.topic]  # type: ignore[union-attr]

    def payloads(self, topic: str) -> list[bytes]:
        return [bytes(message.payload) for message in self.heard if message.topic == topic]

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
