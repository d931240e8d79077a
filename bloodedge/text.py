"""Text from outside: names that are not UTF-8, labels that people write, outputs that lack characters."""

import codecs
import os
import re
from pathlib import Path
from unicodedata import category, normalize

_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")
_ESCAPES = range(0xDC80, 0xDD00)
"""What Python puts in a name for each byte that is not UTF-8."""

_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They can make the text after them, which may not be theirs, read backwards (Unicode Technical Report 36, 2.5)."""
_NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}
"""Controls, surrogates, separators of lines and of paragraphs."""

ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"
"""``is_one_line`` as a pattern, for text from JSON, which holds no surrogates."""

PLAIN_OUTPUT = "bloodedge.plain"
"""The name of this module's error handler, for streams: characters that the encoding lacks are spelt in ASCII."""

_SPELT = str.maketrans(
    {
        "\N{MICRO SIGN}": "u",
        "\N{GREEK SMALL LETTER MU}": "u",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{MIDDLE DOT}": "-",
        "\N{BULLET}": "*",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
        "\N{MINUS SIGN}": "-",
        "\N{DEGREE SIGN}": "deg ",
        "\N{PLUS-MINUS SIGN}": "+/-",
        "\N{GREATER-THAN OR EQUAL TO}": ">=",
        "\N{LESS-THAN OR EQUAL TO}": "<=",
        "\N{RIGHTWARDS ARROW}": "->",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    }
)


def as_text(name: str | os.PathLike[str]) -> str:
    """A file's name as text that every file, database and output takes.

    Bytes that are not UTF-8 become an x with two digits after a backslash. Different names stay different.
    ``as_path`` gives the file again.
    """
    return "".join(map(_storable, os.fspath(name)))


def _storable(character: str) -> str:
    code = ord(character)
    if category(character) != "Cs":
        return character
    return f"\\x{code - 0xDC00:02x}" if code in _ESCAPES else f"\\u{code:04x}"


def as_path(text: str) -> Path:
    """The path that ``as_text`` made the text of."""
    path = Path(text)
    if "\\x" not in text or path.exists():
        return path
    return Path(os.fsdecode(_ESCAPED.sub(lambda byte: bytes.fromhex(byte[1].decode()), os.fsencode(text))))


def utf8_environment() -> dict[str, str]:
    """The environment of a Python process that speaks with this one, in UTF-8 whatever the terminal takes."""
    return {**os.environ, "PYTHONIOENCODING": "utf-8"}


def is_one_line(text: str) -> bool:
    """Whether text fits into one line among others: no control characters, no overrides of the writing direction.

    Joiners, direction marks and every script are allowed: Persian and emoji need them.
    """
    return not any(map(_breaks, text))


def shown(text: str) -> str:
    """Text of any kind as one line, each character that is_one_line refuses replaced."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _breaks(character) else character for character in text)


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets take text that begins so for a formula."""


def not_a_formula(text: str) -> str:
    """Text that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _breaks(character: str) -> bool:
    return character in _TURNING or category(character) in _NO_TEXT


def _spell(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: writes what it cannot encode in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(character: str) -> str:
    plain = normalize("NFKD", as_text(character).translate(_SPELT)).encode("ascii", "ignore").decode()
    return plain or ("" if category(character) in {"Mn", "Cf"} else "?")


codecs.register_error(PLAIN_OUTPUT, _spell)
