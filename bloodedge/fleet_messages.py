"""Messages between boards and their fleet server over MQTT, as JSON."""

from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from bloodedge.decision.kinds import OTHER
from bloodedge.errors import BloodedgeError

REPORT = "report"
"""Topic below the board's own that it reports on; not retained."""
WANTED = "wanted"
"""Topic below the board's own that it reads, retained; empty: no bundle is requested."""

LARGEST = 64 * 1024
"""Bytes of a message."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""Hex SHA-256 of a bundle's file."""
NO_NUL = r"^[^\x00]*$"
"""PostgreSQL stores no text with such a character."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]
Hardware = Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)]
Sentence = Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)]
Count = Annotated[int, Field(ge=0, le=2**40)]
"""The sums over millions of reports, a stranger's too, still fit into 63 bits."""
Bytes = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number that JSON's readers keep."""
EARLIEST_SENT, LATEST_SENT = datetime(1969, 12, 31, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""A board without a clock begins in 1970."""

Milliseconds = Annotated[float, Field(ge=0, le=1e9)]
"""At most 11 days: sums of them stay numbers."""
Address = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)]
"""A file's address, over HTTP."""


class Wire(BaseModel):
    """A message or a part of one. Unknown keys are ignored: the two ends may have different versions."""

    model_config = ConfigDict(
        extra="ignore", from_attributes=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Condition(Wire):
    """The health of one part of a board."""

    level: Literal["ok", "warning", "failed"]
    sentence: Sentence


class Percentiles(Wire):
    """Percentiles of a latency in milliseconds."""

    p50: Milliseconds
    p95: Milliseconds
    p99: Milliseconds


class Latency(Wire):
    """How long a stage took since the report before."""

    count: Count
    latency_ms: Percentiles


class BaselineFigures(Wire):
    """Figures to compare a board with: the float model where it was trained, and this artifact at its conversion."""

    hardware: Hardware
    latency_ms: Percentiles
    """Inference of one cell."""
    accuracy: float = Field(ge=0, le=1)
    artifact_accuracy: float = Field(ge=0, le=1)
    """Accuracy of the int8 artifact on the same held-out cells."""


class RunningBundle(Wire):
    """The bundle that a board runs."""

    name: Name
    serial: Count
    sha256: Digest | None
    """SHA-256 of the slot's file; None outside the slots."""
    state: Literal["shipped", "from settings", "on probation", "good"]
    engine: Name
    precision: Name
    rendered: bool
    """Fitted to drawn cells: its figures say nothing about blood."""
    golden_flips: Count
    """Golden cells that changed class on this board."""
    golden_inputs: Count
    baseline: BaselineFigures

    @property
    def title(self) -> str:
        """The bundle as people call it."""
        return f"{self.name} {self.serial}"


class Reviewed(Wire):
    """Randomly drawn cells that the running bundle called and a person then labelled."""

    called: Count
    right: Count


class Drifted(Wire):
    """How the current slide, or else the newest, compares with the reference people's cells."""

    slide: Count
    cells: Count
    aspects: list[Sentence] = Field(max_length=8)
    """One sentence for each aspect that has drifted."""


class WantedState(Wire):
    """What became of the bundle that a board was asked to run."""

    rollout: Name
    state: Literal["downloading", "installed", "refused", "went back"]
    sentence: Sentence = ""


class BoardReport(Wire):
    """One report of one board, whose name is in the topic."""

    schema_version: Literal[1] = 1
    boot: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    """Drawn at each start of the daemon."""
    sequence: int = Field(ge=1, le=2**53)
    """Number of the report since then, from 1: with ``boot`` it shows duplicates and gaps."""
    sent_at: Annotated[AwareDatetime, Field(ge=EARLIEST_SENT, le=LATEST_SENT)]
    clock_synchronised: bool | None
    """None if unknown."""
    uptime_s: float = Field(ge=0, le=1e11)
    """Since the daemon's start."""
    version: Name
    hardware: Hardware
    alive: bool
    """A frame went through the pipeline recently."""
    bundle: RunningBundle
    health: dict[Name, Condition] = Field(max_length=32)
    frames: Count
    """Since the daemon's start, as the other counts."""
    frames_dropped: Count
    cells: dict[Name, Count] = Field(max_length=8)
    """By label: blast, normal, uncertain, other."""
    latency: dict[Name, Latency] = Field(max_length=16)
    """By stage; a stage that was not reached since the report before is missing."""
    reviewed: Reviewed | None = None
    drifted: Drifted | None = None
    temperature_c: float | None = Field(default=None, ge=-100, le=300)
    disk_free_bytes: Bytes
    messages_waiting: Count
    messages_lost: Count
    wanted: WantedState | None = None

    @property
    def level(self) -> Literal["ok", "warning", "failed"]:
        """The worst of any part."""
        levels = {condition.level for condition in self.health.values()}
        return "failed" if "failed" in levels else "warning" if "warning" in levels else "ok"

    @property
    def uncertain_share(self) -> float | None:
        """Share of uncertain cells since the start, of those asked *blast or normal?*; None before the first."""
        total = sum(self.cells.values()) - self.cells.get(OTHER, 0)
        return self.cells.get("uncertain", 0) / total if total else None


class Wanted(Wire):
    """A request to run a bundle. The board's own trusted keys decide whether it will."""

    schema_version: Literal[1] = 1
    rollout: Name
    name: Name
    serial: Count
    sha256: Digest
    size_bytes: int = Field(ge=1, le=2**31)
    url: Address


Message = TypeVar("Message", BoardReport, Wanted)


def read_message(kind: type[Message], payload: bytes) -> Message:
    """A received message; raises BloodedgeError with its first fault."""
    if len(payload) > LARGEST:
        raise BloodedgeError(f"The message has {len(payload)} bytes; at most {LARGEST} are read.")
    return read_stored(kind, payload)


def read_stored(kind: type[Message], payload: bytes | str) -> Message:
    """A message that was read before and stored since, and so may be larger; raises like read_message."""
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole message"
        if where == "schema_version":
            why = f"it has schema version {first['input']}, which this bloodedge does not know; upgrade bloodedge."
        else:
            why = f"{where}: {first['msg']}."
        sentence = f"The message is no {kind.__name__}: {why}".replace("\0", "\N{REPLACEMENT CHARACTER}")
        raise BloodedgeError(sentence[:500]) from error
