"""The canonical bytes that are signed."""

import json
from collections.abc import Mapping


def statement(purpose: str, values: Mapping[str, str | int | None]) -> bytes:
    """Bytes to sign: the purpose, so that no signature serves for another, then ``values`` as JSON.

    Keys sorted, no white space, UTF-8, as RFC 8785 has it for strings, integers and null, which is all there may be:
    numbers with fractions, which writers spell differently, are only ever signed as part of a file's digest.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"bloodedge {purpose} 1\n{text}".encode()
