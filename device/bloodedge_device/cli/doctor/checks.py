"""All checks, one after the other, and their findings for people and programs."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.text import Text

from bloodedge import RESEARCH_USE
from bloodedge.errors import BloodedgeError, unreadable
from bloodedge.redact import redacted
from bloodedge.tables import print_table
from bloodedge_device.cli.doctor import machine, setup
from bloodedge_device.cli.doctor.finding import Examination, Finding, Outcome
from bloodedge_device.settings import DeviceSettings

CHECKS: dict[str, Callable[[Examination], Outcome]] = {
    "files": setup.check_files,
    "bundle": setup.check_bundle,
    "slots": setup.check_slots,
    "cameras": setup.check_cameras,
    "camera": setup.check_camera,
    "picture": setup.check_picture,
    "disk": machine.check_disk,
    "root": machine.check_root,
    "sync": machine.check_sync,
    "database": setup.check_database,
    "clock": machine.check_clock,
    "heat": machine.check_heat,
    "memory": machine.check_memory,
    "permissions": machine.check_permissions,
    "page": setup.check_page,
    "broker": setup.check_broker,
}
COLOURS = {"ok": "green", "warning": "bold yellow", "failed": "bold red"}


def examine(settings: DeviceSettings) -> list[Finding]:
    """Every check's finding; a check that raises is a failed finding."""
    examination = Examination(settings)
    found = [_finding(name, check, examination) for name, check in CHECKS.items()]
    return [replace(finding, sentence=redacted(finding.sentence), cure=redacted(finding.cure)) for finding in found]


def _finding(name: str, check: Callable[[Examination], Outcome], examination: Examination) -> Finding:
    try:
        return Finding(name, *check(examination))
    except BloodedgeError as error:
        return _failed(name, str(error))
    except PermissionError as error:
        return _failed(name, unreadable(Path(error.filename or examination.settings.state), error))
    except Exception as error:  # one broken check must not hide the others
        sentence = f"The check itself failed ({type(error).__name__}: {error})."
        return Finding(name, "failed", sentence, "Find its cause.")


def _failed(name: str, sentence: str) -> Finding:
    """An error's sentence as a finding: what is wrong, and after the semicolon what to do."""
    problem, _, cure = sentence.rpartition("; ")
    if not problem:
        return Finding(name, "failed", cure, "Do as it says.")
    return Finding(name, "failed", f"{problem}.", cure[:1].upper() + cure[1:])


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings for programs."""
    healthy = all(finding.level != "failed" for finding in findings)
    return {"research_use": RESEARCH_USE, "healthy": healthy, "findings": [asdict(finding) for finding in findings]}


def show(findings: list[Finding]) -> None:
    """Print the findings as a table."""
    columns = ("check", "", "finding")
    rows = [
        (
            finding.name,
            Text(finding.level, COLOURS[finding.level]),
            Text(finding.sentence).append(f"\n{finding.cure}" if finding.cure else "", "bold"),
        )
        for finding in findings
    ]
    print_table(columns, rows, left=columns, sentences={"finding"})
