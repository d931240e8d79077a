"""One path of a root compared with its target: what to write, and what to keep because a person changed it."""

import os
from dataclasses import dataclass, replace
from typing import Literal

from bloodedge_device.provision.boot_files import (
    block_in,
    bytes_of,
    text_of,
    with_block,
    with_words,
    without_block,
    without_words,
    words_in,
)
from bloodedge_device.provision.content import Piece
from bloodedge_device.provision.root_paths import LINK
from bloodedge_device.provision.undo_record import Entry, packed, unpacked

Hand = Literal["changed", "removed"]
"""What a person did."""


@dataclass(frozen=True)
class Found:
    """A path's content (see ``root_paths.read``), permissions and entry in the record."""

    content: bytes | None
    mode: int | None
    entry: Entry | None


@dataclass(frozen=True)
class Target:
    """A path's content and entry in the record after provisioning."""

    content: bytes | None
    entry: Entry | None
    kept: Hand | None = None
    beside: bytes | None = None
    """Our version, to be put beside what a person changed."""


def provisioned(piece: Piece, found: Found) -> Target:
    """The target of a path that gets the piece."""
    compare = {"block": _block, "words": _words}.get(piece.kind, _whole)
    return compare(piece, found)


def restored(found: Found) -> Target:
    """The target of a path that is restored; it must have an entry."""
    entry, now = found.entry, found.content
    assert entry is not None
    before = unpacked(entry.before)
    if now is None:
        return Target(None, None)
    if entry.kind == "words":
        ours = text_of(unpacked(entry.written)).split()
        is_whole = before is not None and with_words(text_of(before), ours) == text_of(now)
        return Target(before if is_whole else bytes_of(without_words(text_of(now), ours)), None)
    if entry.kind == "block":
        block = block_in(text_of(now))
        if block is not None and block not in _blocks(entry):
            return Target(now, entry, "changed")
        is_whole = block is not None and before is not None and with_block(text_of(before), block) == text_of(now)
        return Target(before if is_whole else bytes_of(without_block(text_of(now))), None)
    return Target(before, None) if now in _contents(entry) else Target(now, entry, "changed")


def _whole(piece: Piece, found: Found) -> Target:
    now, entry = found.content, found.entry
    new = LINK + os.fsencode(piece.text) if piece.kind == "link" else piece.text.encode()
    if now == new:
        return Target(now, entry and entry.model_copy(update={"written": packed(new)}))
    ours = {None} if entry is None else _contents(entry)
    if now not in ours:
        if now is None:
            return Target(now, entry, "removed")
        return Target(now, entry, "changed", None if piece.kind == "link" else new)
    return Target(new, _entry(piece, found, new))


def _block(piece: Piece, found: Found) -> Target:
    text, entry = text_of(found.content), found.entry
    block = block_in(text)
    new = bytes_of(with_block(text, piece.text))
    if entry is None:  # the marks show that the block is ours even where the record is lost
        found = replace(found, content=bytes_of(without_block(text)))
    elif block != piece.text and block not in _blocks(entry):
        if block is None:
            return Target(found.content, entry, "removed")
        return Target(found.content, entry, "changed", new)
    return Target(new, _entry(piece, found, piece.text.encode()))


def _words(piece: Piece, found: Found) -> Target:
    """Our words that are missing were removed by a person; our words that are no longer needed are removed."""
    text, entry = text_of(found.content), found.entry
    have, needed = words_in(text), piece.text.split()
    ours = text_of(unpacked(entry.written)).split() if entry else []
    removed = [word for word in needed if word in ours and word not in have and not (entry and entry.in_change)]
    more = [word for word in needed if word not in have and word not in removed]
    written = [word for word in needed if word in ours or word in more]
    new = with_words(without_words(text, [word for word in ours if word not in needed]), more)
    recorded = _entry(piece, found, " ".join(written).encode()) if written else None
    return Target(bytes_of(new), recorded, "changed" if removed else None)


def _entry(piece: Piece, found: Found, written: bytes) -> Entry:
    """The entry; ``before`` stays as the first run found it."""
    entry = found.entry
    if entry is not None:
        return entry.model_copy(update={"written": packed(written), "kind": piece.kind})
    before = None if found.content is None else packed(found.content)
    return Entry(written=packed(written), before=before, mode=found.mode, kind=piece.kind)


def _contents(entry: Entry) -> set[bytes | None]:
    """Contents that the path may have if no person changed it."""
    ours = {unpacked(entry.written)}
    return ours | {unpacked(entry.before), unpacked(entry.earlier)} if entry.in_change else ours


def _blocks(entry: Entry) -> set[str | None]:
    """Blocks that the file may have if no person changed it; None: no block."""
    ours: set[str | None] = {text_of(unpacked(entry.written))}
    if entry.in_change:
        ours |= {block_in(text_of(unpacked(entry.before))), block_in(text_of(unpacked(entry.earlier)))}
    return ours
