"""Removing passwords from addresses before they are shown or stored."""

import re
from typing import Any

HIDDEN = "***"

PERCENT = (
    "write special characters of its user and password percent-encoded (%40 for @, %3A for :, %2F for /, %20 for a"
    " space)"
)
"""The cure for an address that cannot be parsed, perhaps because of its password."""

WITH_HOST = {"http", "https", "rtsp", "rtsps"}

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,15}:/{1,3})(?P<rest>\S*?)(?P<end>[.,;:]?(?=\s|$))")
_BARE_LOGIN = re.compile(r"(?<![^\s\"'(=<@])[^\s:/@\"'(=<]+:[^\s:/@][^\s/@]*@(?=\S)")
"""``user:password@host`` without a scheme."""
_VALUE = re.compile(r"=[^&;#]+")
_REST = re.compile(r"(?<==\*\*\*)([&;])[^=&;#]+(?=[&;#]|$)")
"""What follows a value without a name of its own: a value with a & in it."""
_NAMED = re.compile(
    r"(?i)(?<![A-Za-z])(user(?:name)?|login|pass(?:word|wd)?|pwd|token|key|auth|secret)([:/,])[^/?&;#]+"
)
"""A value in the path, after its name."""
_TOKEN = re.compile(r"(?<![\w-])(?=[A-Za-z-]*\d)(?=[\d-]*[A-Za-z])[A-Za-z0-9-]{16,}(?![\w-])")
"""Mixed letters and digits: some cameras have a secret path instead of a password."""
_STREAM = re.compile(r"(?i)(rtsp|rtmp)s?:|srt:")
"""Schemes of cameras' streams, where a word of the path may be all that opens one."""
_WORD = re.compile(r"(?<=/)(?!\*)[^/?&;#=]{4,}(?=[/?#]|$)")
_PLAIN_WORD = re.compile(
    r"(?i)((axis-)?media(\.amp)?|av|cam(era)?|ch(annels?)?|h\.?26[45]|image|live|main|mjpe?g|mpeg4|multicast|onvif"
    r"|primary|profile|secondary|stream(ing)?|sub|track(id)?|unicast|video)?([._-]?\d{1,3})?(\.(sdp|mp4|mjpe?g|cgi))?"
)
"""What makers of cameras call their streams."""


def redacted(text: str) -> str:
    """``text`` with every address in it made safe to show: no user, password, token or parameter value.

    An address ends at white space; one slash after the scheme (``rtsp:/``) is enough. All before its last ``@`` is
    hidden, so that a password with special characters is too; an ``@`` in the path hides the host as well.
    """
    return _BARE_LOGIN.sub(f"{HIDDEN}@", _ADDRESS.sub(_hidden, text))


def address_fault(address: str) -> str | None:
    """A sentence, without secrets, on why an address cannot be parsed; None if it can."""
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
    scheme, separator, rest = value.strip().partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return redacted(scheme + separator + re.sub(r"\s", "_", rest))
    return redacted(value)


def _hidden(match: re.Match[str]) -> str:
    login, at, place = match["rest"].rpartition("@")
    host, tail = re.fullmatch(r"([^/?#]*)(.*)", place, re.DOTALL).groups()  # type: ignore[union-attr]  # matches all
    tail, mark, _ = tail.partition("#")
    tail = _REST.sub(rf"\1{HIDDEN}", _VALUE.sub(f"={HIDDEN}", tail))
    tail = _TOKEN.sub(HIDDEN, _NAMED.sub(rf"\1\2{HIDDEN}", tail))
    if _STREAM.match(match["scheme"]):
        path, question, values = tail.partition("?")
        tail = _WORD.sub(lambda word: word[0] if _PLAIN_WORD.fullmatch(word[0]) else HIDDEN, path) + question + values
    return f"{match['scheme']}{HIDDEN + '@' if login or at else ''}{host}{tail}{mark and '#' + HIDDEN}{match['end']}"
