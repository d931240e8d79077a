"""A broker that knows MQTT 3.1.1 only, made of one that knows more."""

import socket
import threading
from contextlib import suppress

REFUSES_VERSION = b"\x20\x02\x00\x01"
"""CONNACK, unacceptable protocol version (MQTT 3.1.1, table 3.1)."""


class OlderBroker:
    """What stands for a broker that knows MQTT 3.1.1 only: it passes all but newer clients on to a mosquitto."""

    def __init__(self, behind: int, answer: bytes) -> None:
        """behind: the mosquitto's port; answer: to a CONNECT of MQTT 5, before it hangs up."""
        self._behind, self._answer = behind, answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.newest = 4
        self.levels: list[int] = []
        """Protocol levels of the clients that came (MQTT 3.1.1, 3.1.2.2)."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                client = self._server.accept()[0]
                hello = client.recv(4096)
                self.levels.append(hello[hello.index(b"MQTT") + 4])
                if self.levels[-1] > self.newest:
                    client.sendall(self._answer)
                    client.close()
                    continue
                broker = socket.create_connection(("127.0.0.1", self._behind))
                broker.sendall(hello)
                self._open += [client, broker]
                for source, target in ((client, broker), (broker, client)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Lose every connection."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self.cut()
        self._server.close()
