"""Stored JSON records, read strictly and written whole or not at all."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.files import write_bytes
from bloodedge.text import as_text

Record = TypeVar("Record", bound=Strict)


def parse_record(kind: type[Record], text: str | bytes, source: str) -> Record:
    """A stored record; raises BloodedgeError when it is damaged or of an unknown schema version."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"] == ("schema_version",):
            raise BloodedgeError(
                f"{source} has schema version {first['input']}, which this bloodedge does not know; upgrade bloodedge."
            ) from error
        if first["type"] == "value_error":
            raise BloodedgeError(f"{source} cannot be used: {first['ctx']['error']}.") from error
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BloodedgeError(f"{source} is damaged ({where}: {first['msg']}); make it again.") from error


def record_bytes(record: Strict) -> bytes:
    """A record as indented JSON; names that are not UTF-8 are escaped."""
    return as_text(record.model_dump_json(indent=2) + "\n").encode()


def write_record(path: Path, record: Strict) -> None:
    """Store a record, whole or not at all."""
    write_bytes(path, record_bytes(record))
