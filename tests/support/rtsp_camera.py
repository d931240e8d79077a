"""A network camera that speaks RTSP (RFC 2326) and sends JPEGs in RTP (RFC 2435) over the same connection."""

import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=bench\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:video\r\n"


class RtspCamera:
    """Sends frames, baseline JPEGs of 4:2:0 with the usual Huffman tables, to the first who asks, over and over."""

    def __init__(self, frames: Sequence[bytes], size: tuple[int, int]) -> None:
        self._packets = [_rtp(frame, size, number) for number, frame in enumerate(frames)]
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}/bench"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError), self._server.accept()[0] as client, client.makefile("rwb", buffering=0) as lines:
            while True:
                request = [lines.readline().decode()]
                while (line := lines.readline().decode().strip()) != "":
                    request.append(line)
                method = request[0].split()[0]
                lines.write(self._answer(method, next(one for one in request if one.lower().startswith("cseq"))))
                if method == "PLAY":
                    break
            while not self._stopped.wait(0.02):
                for packet in self._packets:
                    client.sendall(packet)

    @staticmethod
    def _answer(method: str, number: str) -> bytes:
        more, body = "Session: 1\r\n", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            more, body = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n", SDP
        elif method == "SETUP":
            more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        return f"RTSP/1.0 200 OK\r\n{number}\r\n{more}\r\n{body}".encode()

    def close(self) -> None:
        """Hang up."""
        self._stopped.set()
        self._server.close()
        self._thread.join(5)


def _rtp(jpeg: bytes, size: tuple[int, int], number: int) -> bytes:
    """One frame as one RTP packet, interleaved in RTSP (RFC 2326, 10.12)."""
    tables, scan = _tables_and_scan(jpeg)
    header = struct.pack(">BBHII", 0x80, 0x80 | 26, number & 0xFFFF, number * 9000, 1)
    header += struct.pack(">IBBBB", 0, 1, 255, size[0] // 8, size[1] // 8)
    header += struct.pack(">BBH", 0, 0, len(tables))
    packet = header + tables + scan
    return b"$\0" + struct.pack(">H", len(packet)) + packet


def _tables_and_scan(jpeg: bytes) -> tuple[bytes, bytes]:
    """(the two quantisation tables, the compressed rows without the end marker) of a JPEG."""
    tables, at = b"", 2
    while True:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segment, at = jpeg[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xDB:
            tables += b"".join(segment[i + 1 : i + 65] for i in range(0, len(segment), 65))
        if marker == 0xDA:
            return tables, jpeg[at:].removesuffix(b"\xff\xd9")
