"""Short films of the simulated microscope, whole and damaged."""

from collections.abc import Callable
from pathlib import Path

import cv2

from bloodedge.simulation import FieldSpec, render_field

SIZE = (320, 240)

Harm = Callable[[bytes], bytes]
"""A frame's bytes to as many damaged ones."""


def zeros(frame: bytes) -> bytes:
    """Nothing of the frame arrived."""
    return bytes(len(frame))


def cut(frame: bytes) -> bytes:
    """The second half of the frame did not arrive."""
    half = len(frame) // 2
    return frame[:half] + bytes(len(frame) - half)


def gap(frame: bytes) -> bytes:
    """A part of the frame's middle did not arrive; its end did."""
    third = len(frame) // 3
    return frame[:third] + bytes(third) + frame[2 * third :]


def film(path: Path, frames: int, harm: dict[int, Harm] | None = None) -> Path:
    """A Motion JPEG film of so many fields, those named harmed."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE)
    for number in range(frames):
        field = render_field(number, FieldSpec(width=SIZE[0], height=SIZE[1]))
        writer.write(field.bgr)
    writer.release()
    data = bytearray(path.read_bytes())
    places = _places(data)
    assert len(places) == frames
    for number, harmed in (harm or {}).items():
        begin, end = places[number]
        data[begin:end] = harmed(bytes(data[begin:end]))
    path.write_bytes(data)
    return path


def _places(avi: bytearray) -> list[tuple[int, int]]:
    """Where each frame's bytes lie (AVI RIFF File Reference: chunks "00dc" of the list "movi")."""
    found, at = [], avi.index(b"movi") + 4
    while avi[at : at + 4] == b"00dc":
        size = int.from_bytes(avi[at + 4 : at + 8], "little")
        found.append((at + 8, at + 8 + size))
        at += 8 + size + size % 2
    return found
