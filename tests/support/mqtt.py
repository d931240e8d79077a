"""Brokers, what listens to one, and an outbox: for whatever publishes over MQTT."""

import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from bloodedge_device.outputs.home_assistant import StatusPayload
from bloodedge_device.store.outbox import Message
from support import ROOT
from support.needs import required
from support.processes import free_port, until

CONFIGS = ROOT / "firmware_configs" / "broker"

STATUS = StatusPayload(
    blast_percent=None,
    blast_percent_low=None,
    blast_percent_high=None,
    blast_percent_called=None,
    cells_called=0,
    cells_uncertain=0,
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


class Broker:
    """A Mosquitto on a port of its own; stopped or killed, it can be started again there."""

    process: "subprocess.Popen[bytes]"

    def __init__(self, folder: Path, *lines: str) -> None:
        """lines: of its configuration; without any, everybody is let in and it keeps what it has when it is stopped."""
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._logs = (folder / "said", folder / "mosquitto.log")
        open_to_all = ("allow_anonymous true", "persistence true", f"persistence_location {folder}/")
        # else it drops what the listener is too slow for
        limits = ("max_queued_messages 100000", "max_inflight_messages 1000")
        self._configure([f"listener {self.port} 127.0.0.1", *limits, *(lines or open_to_all)])
        self.start()

    def _configure(self, lines: list[str]) -> None:
        self._config.write_text("\n".join([*lines, *(["user root"] if os.geteuid() == 0 else []), ""]))

    @property
    def address(self) -> str:
        """For --broker."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that it has said since it was started."""
        return "".join(path.read_text() for path in self._logs if path.exists())

    def start(self) -> None:
        """Start it, for the first time or again."""
        for log in self._logs:
            log.unlink(missing_ok=True)
        command = [required("mosquitto"), "-c", str(self._config)]
        with self._logs[0].open("w") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said)
        assert until(lambda: "running" in self.log or self.process.poll() is not None, 10), self.log
        assert self.process.poll() is None, self.log

    def stop(self) -> None:
        """End it in good order: it writes down what it has."""
        self.process.terminate()
        self.process.wait(10)

    def kill(self) -> None:
        """Let it write down nothing."""
        self.process.kill()
        self.process.wait()


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

    def _configure(self, _: list[str]) -> None:
        text = (CONFIGS / "mosquitto.conf").read_text()
        assert text.count("listener 8883\n") == 1
        text = text.replace("listener 8883\n", f"listener {self.port} 127.0.0.1\n")
        text = text.replace("/etc/mosquitto/bloodedge", str(self._authority))
        text = re.sub(r"(?m)^(max_queued_\w+) (\d+)$", lambda found: f"{found[1]} {int(found[2]) // self._part}", text)
        folder = self._config.parent
        (folder / "conf.d").mkdir()
        (folder / "conf.d" / "bloodedge.conf").write_text(text + ("user root\n" if os.geteuid() == 0 else ""))
        main = DEBIAN.read_text() if DEBIAN.is_file() else AS_DEBIAN_HAS_IT
        for place in ("/run/mosquitto", "/var/lib/mosquitto", "/var/log/mosquitto", "/etc/mosquitto"):
            main = main.replace(f" {place}/", f" {folder}/")
        self._config.write_text(main)


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
