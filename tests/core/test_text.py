# ruff: noqa: RUF001  # these are the characters that it is about
"""Words from the world: file names that are not UTF-8, labels, byte-order marks, outputs that lack characters."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bloodedge.config import FileName, Strict, read_toml
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import read_text, write_text
from bloodedge.signing.keys import new_key, read_private_key, read_public_key
from bloodedge.text import ONE_LINE, PLAIN_OUTPUT, as_path, as_text, is_one_line, shown

LATIN = os.fsdecode("Blutbild_M\u00fcller.png".encode("latin-1"))
"""As a file's name comes from a disk that another machine wrote."""


def test_a_name_that_is_not_utf8_becomes_text_and_the_file_again(tmp_path: Path) -> None:
    path = tmp_path / LATIN
    path.write_bytes(b"here")
    text = as_text(path)
    assert text.encode().decode() == text
    assert text.endswith(r"Blutbild_M\xfcller.png")
    assert as_path(text).read_bytes() == b"here"


def test_names_that_differ_stay_different_and_others_stay_as_they_are() -> None:
    names = [os.fsdecode(b"a\xfc"), os.fsdecode(b"a\xe4"), "a", "سلول 👩\u200d🔬.png", "a\\b"]
    assert len({as_text(name) for name in names}) == len(names)
    assert [as_text(name) for name in names[2:]] == names[2:]


def test_a_backslash_in_a_name_is_one_where_such_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / r"a\xfc.png"
    path.touch()
    assert as_path(as_text(path)) == path


def test_sentences_records_and_files_hold_such_names_as_text(tmp_path: Path) -> None:
    class Stored(Strict):
        path: FileName

    for text in (str(BloodedgeError(f"{LATIN} is empty.")), Stored(path=LATIN).path):
        assert text.encode().startswith(rb"Blutbild_M\xfcller.png")
    assert Stored.model_validate_json(Stored(path=LATIN).model_dump_json()).path == as_text(LATIN)
    write_text(tmp_path / "page.html", f"<p>{LATIN}</p>")
    assert (tmp_path / "page.html").read_text("utf-8") == rf"<p>{as_text(LATIN)}</p>"


@pytest.mark.parametrize("label", ["می\u200cخواهم", "👩\u200d🔬", "שלום\u200f 3", "a\xa0b", "e\u0301"])
def test_every_script_may_stand_in_a_label(label: str) -> None:
    assert is_one_line(label)
    assert re.search(ONE_LINE, label)
    assert shown(label) == label


@pytest.mark.parametrize("mark", ["\n", "\x00", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\udcfc"])
def test_a_label_neither_steers_a_terminal_nor_turns_the_text_beside_it(mark: str) -> None:
    assert not is_one_line(f"a{mark}b")
    assert shown(f"a{mark}b") == "a\N{REPLACEMENT CHARACTER}b"
    assert mark == "\udcfc" or not re.search(ONE_LINE, f"a{mark}b")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "41 um2 - -3 +/- 2, 3 x 5 deg C >= 1 ... Zelle ????"),
        ("latin-1", "41 µm² - -3 ± 2, 3 × 5 °C >= 1 ... Zélle ????"),
        ("cp1252", "41 µm² – -3 ± 2, 3 × 5 °C >= 1 … Zélle ????"),
    ],
)
def test_what_an_output_lacks_is_spelt_in_ascii(encoding: str, expected: str) -> None:
    text = "41 µm² – \N{MINUS SIGN}3 ± 2, 3 × 5 °C ≥ 1 … Zélle سلول"
    assert text.encode(encoding, PLAIN_OUTPUT).decode(encoding) == expected


def test_a_name_can_be_printed_on_any_output() -> None:
    assert LATIN.encode("utf-8", PLAIN_OUTPUT) == rb"Blutbild_M\xfcller.png"


MARKED = {"utf-8": "utf-8-sig", "utf-16": "utf-16"}


@pytest.mark.parametrize("encoding", MARKED.values(), ids=MARKED)
def test_settings_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "device.toml"
    path.write_bytes('name = "Zählkammer"\r\n[camera]\r\nrate = 5\r\n'.encode(encoding))
    assert read_toml(path) == {"name": "Zählkammer", "camera": {"rate": 5}}
    assert read_text(path).startswith("name")


@pytest.mark.parametrize("encoding", MARKED.values(), ids=MARKED)
def test_recipes_and_runs_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    from bloodedge.bundle.run_record import read_metrics
    from bloodedge_train.recipe import load_recipe

    (tmp_path / "mine.toml").write_bytes('about = "Zählkammer"\n[fit]\nepochs = 3\n'.encode(encoding))
    assert load_recipe(str(tmp_path / "mine.toml")).fit.epochs == 3
    metrics = {
        "parts": {},
        "ece_before_temperature": 0.1,
        "latency_ms": {"p50": 1, "p95": 2, "p99": 3},
        "hardware": "ä",
    }
    (tmp_path / "metrics.json").write_bytes(json.dumps(metrics, ensure_ascii=False).encode(encoding))
    assert read_metrics(tmp_path).hardware == "ä"


def test_a_file_in_another_encoding_is_told_what_to_be(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_bytes('name = "Zählkammer"\n'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"device\.toml is not UTF-8 text .* save it as UTF-8\."):
        read_toml(path)


@pytest.mark.parametrize("encoding", MARKED.values(), ids=MARKED)
def test_keys_and_passwords_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    from bloodedge.cli.keys import _password

    private, public, key = new_key("lab", tmp_path, password="wört".encode())
    (tmp_path / "password").write_bytes("wört\r\n".encode(encoding))
    for path in (private, public):
        path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert read_public_key(public) == key
    assert read_private_key(private, _password(tmp_path / "password")).public_key().public_bytes_raw()


@pytest.mark.parametrize("encoding", MARKED.values(), ids=MARKED)
def test_passwords_for_brokers_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    from bloodedge_device.outputs.mqtt.client import _password
    from bloodedge_fleet.cli import _first_line

    path = tmp_path / "password"
    path.write_bytes("wört\r\n".encode(encoding))
    assert _password(path) == _first_line(path) == "wört"


def test_a_label_of_the_settings_and_of_a_person_may_hold_joiners() -> None:
    from bloodedge_device.daemon.slides import _clean

    assert _clean(" می\u200cخواهم ") == "می\u200cخواهم"
    with pytest.raises(UsageError, match="leave out controls and marks"):
        _clean("a\u202eb")


def _bloodedge(*arguments: str | Path, encoding: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run(
        [sys.executable, "-m", "bloodedge", *map(str, arguments)], env=environment, capture_output=True, check=False
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_commands_print_on_an_output_that_is_not_utf8(tmp_path: Path, rendered_data: Path, encoding: str) -> None:
    odd = tmp_path / "سلول \N{GREATER-THAN OR EQUAL TO} 3"
    odd.symlink_to(rendered_data)
    told = _bloodedge("data", "audit", odd, encoding=encoding)
    assert told.returncode == 0
    assert b"Traceback" not in told.stderr
    assert "144 cells" in told.stdout.decode(encoding)
    failed = _bloodedge("data", "audit", tmp_path / "سلول", encoding=encoding)
    assert failed.returncode == 2
    assert b"Traceback" not in failed.stderr
    assert b"is not a folder" in failed.stderr


def test_a_data_set_whose_names_are_not_utf8_is_audited(tmp_path: Path, rendered_data: Path) -> None:
    root = tmp_path / os.fsdecode(b"Zellen_\xe4")
    shutil.copytree(rendered_data, root)
    first, second = sorted(root.rglob("*_all.*"))[:2]
    first.rename(first.with_name(os.fsdecode(b"UID_1\xfc_1_1_all") + first.suffix))
    broken = second.with_name(os.fsdecode(b"UID_1_2_\xfc_all") + second.suffix)
    second.unlink()
    broken.write_bytes(b"no image")
    told = _bloodedge("data", "audit", root, "--json", tmp_path / "audit.json", encoding="utf-8")
    assert told.returncode == 0
    audit = json.loads((tmp_path / "audit.json").read_text("utf-8"))
    assert [subject["subject"] for subject in audit["subjects"] if "\\" in subject["subject"]] == [r"1\XFC"]
    ((name, reason),) = audit["unreadable"].items()
    assert name.endswith(rf"UID_1_2_\xfc_all{second.suffix}")
    assert reason == "The picture is truncated or not an image; copy it again from its source."
    assert r"\xfc" in told.stdout.decode()
