import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bloodedge import RESEARCH_USE
from bloodedge.cli import main
from bloodedge.errors import UsageError
from bloodedge_device.outputs.laboratory.fhir import fhir_bundle
from bloodedge_device.outputs.laboratory.hl7 import hl7_message
from bloodedge_device.outputs.laboratory.results import CODES, PANEL, results_of
from bloodedge_device.report.reading import DeviceReport, read_report
from bloodedge_device.slide.review import Review
from support.web_fakes import busy_daemon, client_of, mixed_daemon

pytest.importorskip("hl7apy", reason="hl7apy, which validates HL7 v2, is not installed (pip install -e '.[lis]')")
pytest.importorskip(
    "fhir.resources", reason="fhir.resources, which validates FHIR, is not installed (pip install -e '.[lis]')"
)

NOW = datetime(2026, 11, 30, 12, 0, 5, tzinfo=UTC)
NAMES = {  # LOINC's own names, from loinc.org
    "26446-5": "Blasts", "26511-6": "Neutrophils", "26508-2": "Band form neutrophils",
    "26505-8": "Segmented neutrophils", "26478-8": "Lymphocytes", "26485-3": "Monocytes", "26450-7": "Eosinophils",
    "30180-4": "Basophils", "38518-7": "Immature granulocytes", "19048-8": "Nucleated erythrocytes",
}  # fmt: skip


@pytest.fixture
def report(tmp_path: Path) -> DeviceReport:
    daemon = mixed_daemon(tmp_path)
    daemon.desk.label_slide(1, "Doe, Jane", "page")
    daemon.store.close()
    return read_report(tmp_path)


def segments(message: bytes) -> list[list[str]]:
    return [line.split("|") for line in message.decode().split("\r") if line]


def share_of(report: DeviceReport, kind: str) -> str:
    """In percent as it is sent: corrected where that is known."""
    assert report.differential is not None
    row = report.differential.row(kind)
    assert row.share is not None
    return f"{100 * (row.share if row.corrected is None else row.corrected):.1f}"


def test_the_hl7_message_is_valid_and_holds_each_share(report: DeviceReport) -> None:
    from hl7apy.parser import parse_message

    message = hl7_message(results_of(report), NOW)
    assert message.endswith(b"\r")
    assert b"\n" not in message
    parsed = parse_message(message.decode(), find_groups=True)
    assert parsed.validate()
    assert parsed.name == "ORU_R01"
    lines = segments(message)
    assert lines[0][8:12] == ["ORU^R01^ORU_R01", "1-20261130120005", "T", "2.5.1"]
    found = {line[3].split("^")[0]: line for line in lines if line[0] == "OBX"}
    assert set(found) == set(NAMES)
    assert found["26511-6"][5:7] == [share_of(report, "neutrophil"), "%^%^UCUM"]
    assert "6 of 14 leucocytes as told" in message.decode()
    assert found["26505-8"][5] == "35.7"
    assert found["19048-8"][5:7] == ["7.1", "/100{WBCs}^/100{WBCs}^UCUM"]
    assert {line[11] for line in found.values()} == {"P"}


def test_codes_carry_loincs_names() -> None:
    for code, name in (*CODES.values(),):
        assert name.startswith(f"{NAMES[code]}/Leukocytes")
    assert PANEL[0] == "69738-3"


def test_neither_file_names_the_slide_or_a_patient_and_both_are_for_research(report: DeviceReport) -> None:
    for file in (hl7_message(results_of(report)), fhir_bundle(results_of(report))):
        assert b"Doe" not in file
        assert RESEARCH_USE in file.decode()
    pid = next(line for line in segments(hl7_message(results_of(report))) if line[0] == "PID")
    assert (pid[3], pid[5]) == ("slide-1", "^^^^^^S")


def test_a_specimens_number_goes_along_with_its_separators_escaped(report: DeviceReport) -> None:
    results = results_of(report, "A|1^2&3")
    obr = next(line for line in segments(hl7_message(results)) if line[0] == "OBR")
    assert obr[3] == "A\\F\\1\\S\\2\\T\\3"
    told = json.loads(fhir_bundle(results))["entry"][0]["resource"]
    assert told["specimen"] == [{"identifier": {"value": "A|1^2&3"}}]


def test_the_fhir_bundle_is_valid_in_r4b_and_in_r5_with_references_that_resolve(report: DeviceReport) -> None:
    from fhir.resources import bundle as r5
    from fhir.resources.R4B import bundle as r4

    file = fhir_bundle(results_of(report), NOW)
    for version in (r4, r5):
        bundle = version.Bundle.model_validate_json(file)
        first, *others = [entry.resource for entry in bundle.entry]
        assert type(first).__name__ == "DiagnosticReport"
        assert {type(other).__name__ for other in others} == {"Observation"}
        assert first.status == "preliminary"
        assert [ref.reference for ref in first.result] == [entry.fullUrl for entry in bundle.entry[1:]]
        values = {one.code.coding[0].code: float(one.valueQuantity.value) for one in others}
        assert values["26511-6"] == float(share_of(report, "neutrophil"))
    assert fhir_bundle(results_of(report), NOW) == file


def test_reviewed_kinds_are_sent_in_place_of_the_devices(tmp_path: Path) -> None:
    daemon = mixed_daemon(tmp_path)
    daemon.desk.review(1, Review.of(kind="eosinophil"), "gallery", "page")
    daemon.store.close()
    results = results_of(read_report(tmp_path))
    values = {result.key: result.value for result in results.figures}
    assert values["eosinophil"] == 14.3  # 2 of 14
    assert "After a person's review" in results.conclusion


def test_a_slide_without_kinds_cannot_be_sent(tmp_path: Path) -> None:
    daemon = busy_daemon(tmp_path)
    client: TestClient = client_of(daemon)
    answer = client.get("/slides/1/export.hl7")
    assert answer.status_code == 400
    assert "no differential count to send" in answer.text
    with pytest.raises(UsageError, match="no differential count to send"):
        results_of(read_report(tmp_path))
    daemon.store.close()


def test_the_page_and_the_command_line_write_the_files(tmp_path: Path) -> None:
    daemon = mixed_daemon(tmp_path / "state")
    client = client_of(daemon)
    for kind, name in (("hl7", "slide-1.hl7"), ("fhir", "slide-1.fhir.json")):
        answer = client.get(f"/slides/1/export.{kind}")
        assert answer.status_code == 200
        assert name in answer.headers["content-disposition"]
    daemon.store.close()
    files = tmp_path / "a.hl7", tmp_path / "a.json"
    with pytest.raises(SystemExit) as ended:
        main(["device", "report", "--state", str(tmp_path / "state"), "--hl7", str(files[0]), "--fhir", str(files[1]),
              "--specimen", "S-12"])  # fmt: skip
    assert not ended.value.code
    assert re.search(rb"OBR\|1\|\|S-12\|69738-3", files[0].read_bytes())
    assert json.loads(files[1].read_text())["resourceType"] == "Bundle"


def test_without_the_libraries_one_sentence_says_what_to_install(
    report: DeviceReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "hl7apy.core", None)
    monkeypatch.setitem(__import__("sys").modules, "fhir.resources.R4B.bundle", None)
    for write in (hl7_message, fhir_bundle):
        with pytest.raises(UsageError, match=r"install it with|source"):
            write(results_of(report))
