"""Results as an HL7 v2.5.1 message, ORU^R01, preliminary and for training (MSH-11 is T): no result to act on."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bloodedge import __version__
from bloodedge.errors import UsageError
from bloodedge.installation import install_hint
from bloodedge_device.outputs.laboratory.results import PANEL, Results

if TYPE_CHECKING:
    from hl7apy.core import Message

TIME = "%Y%m%d%H%M%S+0000"


def hl7_message(results: Results, now: datetime | None = None) -> bytes:
    """The message, validated, with a carriage return after each segment; UsageError without the extra ``lis``."""
    try:
        from hl7apy.consts import VALIDATION_LEVEL
        from hl7apy.core import Message
    except ImportError as error:
        raise UsageError(f"HL7 messages need hl7apy; {install_hint('lis')}") from error
    message = Message("ORU_R01", version="2.5.1", validation_level=VALIDATION_LEVEL.STRICT)
    _head(message, results, now or datetime.now(UTC))
    patient = message.add_group("oru_r01_patient_result")
    pid = patient.add_group("oru_r01_patient").add_segment("pid")
    pid.pid_3, pid.pid_5 = results.slide_id, "^^^^^^S"  # a pseudonym: the slide, no name
    _order(patient.add_group("oru_r01_order_observation"), results)
    message.validate()
    text: str = message.to_er7()
    return f"{text.rstrip()}\r".encode()


def _head(message: "Message", results: Results, now: datetime) -> None:
    msh = message.msh
    msh.msh_3, msh.msh_7 = f"bloodedge {__version__}", now.strftime(TIME)
    msh.msh_9, msh.msh_10 = "ORU^R01^ORU_R01", f"{results.report.slide}-{now:%Y%m%d%H%M%S}"[:20]
    msh.msh_11, msh.msh_18 = "T", "UNICODE UTF-8"


def _order(group: Any, results: Results) -> None:
    report, obr = results.report, group.add_segment("obr")
    obr.obr_1, obr.obr_3 = "1", _text(results.specimen or results.slide_id)
    obr.obr_4 = f"{PANEL[0]}^{PANEL[1]}^LN"
    obr.obr_7, obr.obr_25 = report.started.strftime(TIME), "P"
    note = group.add_segment("nte")
    note.nte_1, note.nte_2, note.nte_3 = "1", "L", _text(results.conclusion)
    for number, result in enumerate(results.figures, 1):
        observation = group.add_group("oru_r01_observation")
        obx = observation.add_segment("obx")
        obx.obx_1, obx.obx_2, obx.obx_3 = str(number), "NM", f"{result.loinc}^{result.name}^LN"
        obx.obx_5, obx.obx_6, obx.obx_11 = f"{result.value:.1f}", f"{result.unit}^{result.unit}^UCUM", "P"
        obx.obx_18 = _text(results.device)
        comment = observation.add_segment("nte")
        comment.nte_1, comment.nte_2, comment.nte_3 = "1", "L", _text(result.note)


def _text(text: str) -> str:
    """Text with HL7's separators escaped (chapter 2.7)."""
    escapes = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
    return "".join(escapes.get(character, character) for character in " ".join(text.split()))
