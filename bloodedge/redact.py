"""Passwords out of addresses, before anybody sees or stores them."""

import re
from typing import Any

HIDDEN = "***"

PERCENT = (
    "write special characters of its user and password percent-encoded (%40 for @, %3A for :, %2F for /, %20 for a"
    " space)"
)
"""What to do about an address whose password may be what it is not read for."""

WITH_HOST = {"http", "https", "rtsp", "rtsps"}

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,15}:/{1,3})(?P<rest>\S*?)(?P<end>[.,;:]?(?=\s|$))")
_BARE_LOGIN = re.compile(r"(?<![^\s\"'(=<])[^\s:/@\"'(=<]+:[^\s:/@][^\s/@]*@(?=\S)")
"""``user:word@host`` of an address whose scheme was left out."""
_VALUE = re.compile(r"=[^&;/?#]+")
_TOKEN = re.compile(r"(?<![\w-])(?=[A-Za-z-]*\d)(?=[\d-]*[A-Za-z])[A-Za-z0-9-]{16,}(?![\w-])")
"""Letters and digits mixed, as cameras have it that take a secret path for a password."""


def redacted(text: str) -> str:
    """``text`` with every address in it as it may be shown: no user, password, token or value of a parameter.

    An address ends at white space; one of whose slashes a path has left one (``rtsp:/``) is one as well. What comes
    before its last ``@`` is hidden, so that a password with odd characters is as well; a host that stands before an
    ``@`` in a path goes with it.
    """
    return _BARE_LOGIN.sub(f"{HIDDEN}@", _ADDRESS.sub(_hidden, text))


def address_fault(address: str) -> str | None:
    """Why no program can read an address, in a sentence that does not give it away; None where one can."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        has_host = bool(parts.hostname) or parts.scheme not in WITH_HOST
        if has_host and not re.search(r"\s", address) and parts.port != 0:
            return None
    except ValueError:  # a port that is no number, or a bracket without its other
        pass
    return f"The address {redacted_values(address)} cannot be read; {PERCENT}."


def redacted_values(value: Any) -> Any:
    """``value`` with every text in its dicts, lists and tuples redacted; an address in it may hold white space."""
    if isinstance(value, dict):
        return {key: redacted_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(inner) for inner in value]
    if not isinstance(value, str):
        return value
    scheme, separator, rest = value.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return redacted(scheme + separator + re.sub(r"\s", "_", rest))
    return redacted(value)


def _hidden(match: re.Match[str]) -> str:
    login, at, place = match["rest"].rpartition("@")
    host, tail = re.fullmatch(r"([^/?#]*)(.*)", place, re.DOTALL).groups()  # type: ignore[union-attr]  # matches all
    tail, mark, _ = tail.partition("#")
    tail = _TOKEN.sub(HIDDEN, _VALUE.sub(f"={HIDDEN}", tail))
    return f"{match['scheme']}{HIDDEN + '@' if login or at else ''}{host}{tail}{mark and '#' + HIDDEN}{match['end']}"
