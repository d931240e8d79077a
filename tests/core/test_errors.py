"""Errors are one sentence with a remedy."""

import errno
import re
import shlex
from pathlib import Path

import pytest

from bloodedge.errors import BloodedgeError, DiskError, UsageError, did_you_mean, disk_errors, quoted


def test_a_misspelt_word_is_answered_with_the_nearest_known_one() -> None:
    assert did_you_mean("evalute", ["train", "evaluate"]) == ' Did you mean "evaluate"?'
    assert did_you_mean("MOBILENETV2", ["mobilenetv2"]) == ' Did you mean "mobilenetv2"?'


def test_no_hint_is_given_when_nothing_is_near() -> None:
    assert did_you_mean("xyzzy", ["train", "evaluate"]) == ""


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "choose another folder"),
        (errno.EACCES, "permissions"),
        (errno.EISDIR, "choose another name"),
        (errno.ENOTDIR, "choose another name"),
        (errno.EIO, "check it and its cable"),
        (errno.EMFILE, "raise its limit"),
        (errno.ENFILE, "end other programs"),
        (errno.ENOMEM, "end other programs"),
    ],
)
def test_a_disk_that_cannot_be_written_is_told_with_its_remedy(number: int, remedy: str) -> None:
    with pytest.raises(DiskError, match=remedy) as caught, disk_errors("the checkpoint"):
        raise OSError(number, "said by the kernel", "some/file")
    assert "the checkpoint (some/file)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unexpected_system_error_is_not_disguised() -> None:
    with pytest.raises(OSError, match="strange"), disk_errors("the checkpoint"):
        raise OSError(errno.ENXIO, "strange")


def test_wrong_usage_and_failure_have_their_own_exit_codes() -> None:
    assert (UsageError.exit_code, BloodedgeError.exit_code) == (2, 1)


COMMAND_WITH_A_PATH = re.compile(
    r"(?:--(?:state|trust|out|device|key) |-o |keys trust |bloodedge (?:convert|sign) |ch(?:mod|grp) \S+ )"
    r"\{(?!(?:shlex\.quote|quoted)\()"
)


@pytest.mark.parametrize("package", ["bloodedge", "train", "convert", "device", "fleet"])
def test_a_path_in_a_command_to_be_run_is_quoted_for_the_shell(package: str) -> None:
    root = Path(__file__).resolve().parents[2]
    texts = {path: path.read_text() for path in (root / package).rglob("*.py")}
    assert texts
    assert [
        f"{path.name}: {found[0]}" for path, text in texts.items() for found in COMMAND_WITH_A_PATH.finditer(text)
    ] == []


def test_a_path_with_a_quote_and_a_space_is_one_word() -> None:
    assert shlex.split(quoted(Path("the lab's results"))) == ["the lab's results"]
    assert quoted(Path("/var/lib/bloodedge")) == "/var/lib/bloodedge"
