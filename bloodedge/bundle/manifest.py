"""``manifest.json``: a bundle's contents, measured figures and origin."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.run_record import FeaturesRecord, FittedRecord, SplitRecord
from bloodedge.config import FileName, Strict
from bloodedge.decision.domain import Domain
from bloodedge.decision.error_rates import Rates
from bloodedge.decision.operating_point import OperatingPoint
from bloodedge.decision.reference_people import Reference
from bloodedge.decision.slide_verdict import PeopleScores
from bloodedge.decision.thresholds import LABELS, Thresholds
from bloodedge.errors import UsageError
from bloodedge.imaging import ImagingSpec
from bloodedge.imaging.network_input import in_words
from bloodedge.text import is_one_line

BUNDLE_SCHEMA: Literal[1] = 1

EngineName = Literal["litert", "openvino", "onnx", "keras"]
Precision = Literal["float32", "float16", "dynamic", "int8"]
"""Of the weights; "dynamic" stores them in int8 and computes activations in float32."""


class InputSpec(Strict):
    """What an artifact takes."""

    height: int
    width: int
    views: int = 1
    """Of one cell, side by side along a first axis; without that axis if there is one."""
    channels: Literal[3] = 3
    dtype: Literal["uint8"] = "uint8"
    colour: Literal["RGB"] = "RGB"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one network input, as ``ImagingSpec.input_shape``."""
        frame = (self.height, self.width, self.channels)
        return frame if self.views == 1 else (self.views, *frame)


class Agreement(Strict):
    """An artifact against the float model on the same held-out cells."""

    cells: int
    flips: int
    flip_rate: float
    """Share of cells whose class changes, 0..1."""
    max_probability_difference: float
    mean_probability_difference: float | None = None
    """Of calibrated blast probabilities, 0..1; None in older records."""
    mean_probability_difference_ci95: tuple[float, float] | None = None
    """Over subjects."""
    never_called: str | None = None
    """The class that has cells though the artifact calls no cell it."""
    drop: dict[str, float]
    """Baseline metric minus artifact metric, percentage points."""
    drop_ci95: dict[str, tuple[float, float]]
    """Paired over subjects."""


class Artifact(Strict):
    """One converted network of the bundle."""

    engine: EngineName
    precision: Precision
    method: str | None = None
    """How int8 was made, as in ``bloodedge convert --int8-method``."""
    file: str
    weights_file: str | None = None
    sha256: str
    size_bytes: int
    """All of the artifact's files."""
    evaluation: Evaluation
    agreement: Agreement
    rates: Rates | None = None
    """How it calls held-out people's cells as a camera shows them, by person; None in older bundles and for a leaky
    split."""


class Baseline(Strict):
    """The float model as measured at training."""

    hardware: str
    backend: str
    latency_ms: LatencyMs
    evaluation: Evaluation


class Golden(Strict):
    """The self-test: rendered inputs with the float model's outputs. Bounds were measured at conversion."""

    file: str = "golden.npz"
    inputs: int = Field(ge=1)
    max_flips: dict[str, Annotated[int, Field(ge=0)]]
    """Flips against the float model that an artifact ("litert/int8") showed at conversion; more is a fault."""
    max_probability_difference: dict[str, Annotated[float, Field(ge=0, le=1)]]
    """Likewise, the largest probability difference seen at conversion."""


class Provenance(Strict):
    """Where the bundle comes from."""

    run: FileName
    model: str
    parameters: int
    recipe: dict[str, Any]
    weights: str
    data_fingerprint: str
    data_layout: DataLayout = Field(default_factory=DataLayout)
    """How the run's data were laid out; C-NMC's in older bundles."""
    rendered: bool
    split: SplitRecord
    calibration_cells: int
    calibration_digest: str
    converted: str
    hardware: str
    versions: dict[str, str]


class FinetuneRecord(Strict):
    """How a bundle's head was fitted to a bench; see ``bloodedge_convert.finetuning``."""

    from_name: str
    from_serial: int
    cells: int
    blasts: int
    slides: int
    before: Evaluation
    """The released model on the bench's cells."""
    after: Evaluation
    """The new one, each slide held back once."""
    release_before: Evaluation
    release_after: Evaluation
    """On some of the release's own cells, each person held back once."""


class Manifest(Strict):
    """``manifest.json`` of a bundle."""

    schema_version: Literal[1] = BUNDLE_SCHEMA
    serial: int = Field(ge=0, lt=2**63)
    """Seconds since 1970 at conversion: a later conversion has the larger serial."""
    name: FileName
    labels: list[str]
    input: InputSpec
    imaging: ImagingSpec
    temperature: float = Field(ge=1e-3, le=1e3)
    thresholds: Thresholds
    operating_point: OperatingPoint | None = None
    """What the thresholds were chosen for; None where they are the usual ones, as in older bundles."""
    domain: Domain | None = None
    """The training cells' domain; None where there were too few cells."""
    reference: Reference | None = None
    """How cells of people outside the training data look and are called; None where there are too few people."""
    people_scores: PeopleScores | None = None
    """Scores of people outside the training data, by which a slide as a whole is judged; None where there are too few
    people, and in older bundles."""
    caveats: list[str] = Field(default_factory=list)
    """Sentences to print above the model's figures: faults that the gate was asked to let through."""
    artifacts: list[Artifact]
    left_out: dict[str, str] = Field(default_factory=dict)
    """Artifacts not in the bundle ("litert/int8") and why."""
    baseline: Baseline
    golden: Golden
    fitted: FittedRecord | None = None
    """None in older bundles."""
    features: FeaturesRecord | None = None
    """None in older bundles, and where a whole network was fitted: such a bundle cannot be fine-tuned."""
    finetuned: FinetuneRecord | None = None
    """None for a bundle as it was converted."""
    provenance: Provenance
    files: dict[str, str]
    """SHA-256 of every file but manifest.json and signature.json."""

    removed: ClassVar = {"stain": ...}

    @model_validator(mode="after")
    def _imaging_makes_the_input(self) -> Self:
        if self.input.shape != self.imaging.input_shape:
            message = (
                f"the networks take {in_words(self.input.shape)}, but imaging makes "
                f"{in_words(self.imaging.input_shape)}; convert the run again"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if tuple(self.labels) != LABELS:
            message = f"labels: {', '.join(LABELS)} in this order are supported"
            raise ValueError(message)
        if not is_one_line(self.name):
            message = "name: one line without control characters"
            raise ValueError(message)
        kinds = [(artifact.engine, artifact.precision) for artifact in self.artifacts]
        if len(set(kinds)) < len(kinds):
            message = "artifacts: an engine has the same precision twice"
            raise ValueError(message)
        if max(self.golden.max_flips.values(), default=0) > self.golden.inputs:
            message = "golden: more flips are allowed than it has inputs"
            raise ValueError(message)
        return self

    @property
    def title(self) -> str:
        """Name and serial."""
        return f"{self.name} {self.serial}"

    def artifact(self, engine: str, precision: str) -> Artifact:
        """The artifact for an engine and precision; raises UsageError that lists the bundle's artifacts."""
        for artifact in self.artifacts:
            if (artifact.engine, artifact.precision) == (engine, precision):
                return artifact
        available = ", ".join(f"{a.engine} {a.precision}" for a in self.artifacts)
        raise UsageError(f'Bundle "{self.name}" has no {engine} {precision} model; it has: {available}.')
