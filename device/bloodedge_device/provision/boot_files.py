"""A Raspberry Pi's config.txt and cmdline.txt: others write them too, so only our part is changed."""

import re
from collections.abc import Iterable

from bloodedge.errors import UsageError

BEGIN, END = "# bloodedge: begin", "# bloodedge: end"

_BLOCK = re.compile(rf"^{BEGIN}\r?\n(.*?)^{END}(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_MARK = re.compile(rf"^{BEGIN}\r?$", re.MULTILINE)


def text_of(content: bytes | None) -> str:
    """A boot file's text; ``bytes_of`` gives the same bytes back, also those that are not UTF-8."""
    return (content or b"").decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes of a boot file's text."""
    return text.encode(errors="surrogateescape")


def block_in(text: str) -> str | None:
    """Our block of config.txt, without its marks; None without one. Raises UsageError for a block without an end."""
    found = _BLOCK.search(text)
    if found is None and _MARK.search(text):
        raise UsageError(
            f'config.txt has a line "{BEGIN}" and no line "{END}" after it; add that, or remove the block.'
        )
    return None if found is None else found[1].replace("\r\n", "\n")


def with_block(text: str, block: str) -> str:
    """config.txt with our block, in its old place or at the end, with the file's line endings."""
    found = _BLOCK.search(text)
    marked = f"{BEGIN}\n{block}{END}\n"
    if "\r\n" in text:
        marked = marked.replace("\n", "\r\n")
    if found is not None:
        return text[: found.start()] + marked + text[found.end() :]
    gap = "" if not text or text.endswith("\n") else "\r\n" if "\r\n" in text else "\n"
    return f"{text}{gap}{marked}"


def without_block(text: str) -> str:
    """config.txt without our block."""
    return _BLOCK.sub("", text, count=1)


def words_in(text: str) -> list[str]:
    """The kernel's command line: the first line of cmdline.txt."""
    return text.partition("\n")[0].split()


def with_words(text: str, words: Iterable[str]) -> str:
    """cmdline.txt with those words in its first line."""
    line, newline, rest = text.partition("\n")
    more = [word for word in words if word not in line.split()]
    end = "\r\n" if line.endswith("\r") else newline or "\n"
    return f"{' '.join([line.rstrip(), *more]).lstrip()}{end}{rest}" if more else text


def without_words(text: str, words: Iterable[str]) -> str:
    """cmdline.txt without those words in its first line."""
    line, newline, rest = text.partition("\n")
    kept = [word for word in line.split() if word not in set(words)]
    end = "\r" if line.endswith("\r") else ""
    return f"{' '.join(kept)}{end}{newline}{rest}" if len(kept) < len(line.split()) else text
