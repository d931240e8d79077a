"""No address leaves with what opens it."""

from time import perf_counter

import pytest

from bloodedge.redact import redacted, redacted_values

SECRETS = ("hunter2", "hunter", "hun", "admin", "s3cr3t", "aB3dE6gH9jK2mN5p")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://admin:hunter2@10.0.0.7:554/live/1", "rtsp://***@10.0.0.7:554/live/1"),
        ("RTSPS://admin:hunter2@cam/live", "RTSPS://***@cam/live"),
        ("rtsp://admin@cam/live", "rtsp://***@cam/live"),
        ("http://cam/video.mjpg?channel=1&pwd=hunter2", "http://cam/video.mjpg?channel=***&pwd=***"),
        ("http://cam/video?loginuse=admin&loginpas=hunter2#s3cr3t", "http://cam/video?loginuse=***&loginpas=***#***"),
        ("rtsp://cam:554/user=admin_password=hunter2_channel=1_stream=0.sdp", "rtsp://cam:554/user=***"),
        ("rtsps://cam:7441/aB3dE6gH9jK2mN5p?enableSrtp", "rtsps://cam:7441/***?enableSrtp"),
        ("rtsp://cam/Streaming/Channels/101", "rtsp://cam/Streaming/Channels/101"),
        ("rtsp://cam/live/hunter/ch1_0", "rtsp://cam/live/***/***"),
        ("rtmps://cam:1935/hunter?enableSrtp", "rtmps://cam:1935/***?enableSrtp"),
        ("rtsp://cam/axis-media/media.amp", "rtsp://cam/axis-media/media.amp"),
        ("http://fleet:8770/rollouts/today", "http://fleet:8770/rollouts/today"),
        ("rtsp://admin:hunter2@s3cr3t@cam/live", "rtsp://***@cam/live"),  # as FFmpeg reads it
        ("rtsp://admin:hun/ter2@cam/live", "rtsp://***@cam/live"),
        ("rtsp://admin:hun?ter#2@cam/live", "rtsp://***@cam/live"),
        ("rtsp://admin:hun'ter\"2@cam/live", "rtsp://***@cam/live"),
        ("rtsp://[fe80::1]:554/live", "rtsp://[fe80::1]:554/live"),
        ("tcp://cam:5000", "tcp://cam:5000"),
        ("admin:hunter2@cam/live", "***@cam/live"),
        ("rtsp:/admin:hunter2@cam/live?pwd=hunter2", "rtsp:/***@cam/live?pwd=***"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str) -> None:
    assert redacted(address) == shown
    assert redacted_values(address) == shown
    assert not any(secret in shown for secret in SECRETS)
    sentence = f"The stream {address} does not answer, nor {address}; check {address}."
    assert redacted(sentence) == f"The stream {shown} does not answer, nor {shown}; check {shown}."


def test_what_is_no_secret_stays() -> None:
    text = "frames@2x/img.png at 12:30, see http://127.0.0.1:8766/slides/3 (cells 7, share 0.5)."
    assert redacted(text) == text


def test_what_was_redacted_stays_as_it_is_and_long_text_takes_no_time() -> None:
    shown = "rtsp://***@cam/1?pwd=***&n=***#***"
    assert redacted(shown) == shown
    began = perf_counter()
    redacted("aB3+" * 100_000 + ":" * 1000 + " " + "x" * 400_000 + "@")
    assert perf_counter() - began < 5


def test_values_are_redacted_at_any_depth_and_keep_their_shape() -> None:
    before = {"camera": {"source": "rtsp://admin:hun ter2@cam/x", "rate": 5.0}, "list": [None, "http://a:b@c", True]}
    after = {"camera": {"source": "rtsp://***@cam/x", "rate": 5.0}, "list": [None, "http://***@c", True]}
    assert redacted_values(before) == after


@pytest.mark.parametrize(
    "address",
    [" rtsp://u:SEC RET@h/", "rtsp://h/a?x=SEC/RET", "rtsp://h?password=SEC?RET", "rtsp://h/a?password=SEC&RET",
     "rtsp://h/a?password=SEC&RET&x=1", "rtsp://h/a&password:SECRET", "http://h/video.cgi/pwd/SECRET", "@u:SECRET@h"],
)  # fmt: skip
def test_a_password_with_special_characters_or_in_the_path_is_hidden(address: str) -> None:
    shown = redacted_values({"source": address})["source"]
    assert "SEC" not in shown
    assert "RET" not in shown
