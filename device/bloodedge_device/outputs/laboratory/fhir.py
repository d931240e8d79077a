"""Results as FHIR: a Bundle with a DiagnosticReport and its Observations, preliminary.

It uses what FHIR R4, R4B and R5 have in common, so that one file serves each.
"""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from bloodedge import RESEARCH_USE
from bloodedge.errors import UsageError
from bloodedge.installation import install_hint
from bloodedge_device.outputs.laboratory.results import PANEL, Result, Results

LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
CATEGORY = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
SECTION = {
    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "HM", "display": "Hematology"}]
}
METHOD = "Image analysis of a stained blood smear"

Json = dict[str, Any]


def fhir_bundle(results: Results, now: datetime | None = None) -> bytes:
    """The Bundle as JSON, validated; UsageError without the extra ``lis``."""
    try:
        from fhir.resources.R4B.bundle import Bundle
    except ImportError as error:
        raise UsageError(f"FHIR files need fhir.resources; {install_hint('lis')}") from error
    bundle = _bundle(results, now or datetime.now(UTC))
    Bundle.model_validate(bundle)
    return json.dumps(bundle, indent=2, ensure_ascii=False).encode()


def _bundle(results: Results, now: datetime) -> Json:
    made = now.isoformat(timespec="seconds")
    observations = [_observation(results, result) for result in results.figures]
    report = {
        "resourceType": "DiagnosticReport",
        "id": _id(results, "report"),
        "meta": {"tag": [{"display": RESEARCH_USE}]},
        "status": "preliminary",
        "category": [SECTION],
        "code": _coded(*PANEL),
        "effectiveDateTime": results.report.started.isoformat(timespec="seconds"),
        "issued": made,
        "result": [{"reference": f"urn:uuid:{observation['id']}"} for observation in observations],
        "conclusion": results.conclusion,
        **_specimen(results, several=True),
    }
    entries = [{"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource} for resource in (report, *observations)]
    return {"resourceType": "Bundle", "type": "collection", "timestamp": made, "entry": entries}


def _observation(results: Results, result: Result) -> Json:
    return {
        "resourceType": "Observation",
        "id": _id(results, result.key),
        "meta": {"tag": [{"display": RESEARCH_USE}]},
        "status": "preliminary",
        "category": [CATEGORY],
        "code": _coded(result.loinc, result.name),
        "effectiveDateTime": results.report.started.isoformat(timespec="seconds"),
        "valueQuantity": {"value": result.value, "unit": result.unit, "system": UCUM, "code": result.unit},
        "method": {"text": METHOD},
        "device": {"display": results.device},
        "note": [{"text": result.note}],
        **_specimen(results, several=False),
    }


def _coded(code: str, name: str) -> Json:
    return {"coding": [{"system": LOINC, "code": code, "display": name}], "text": name}


def _specimen(results: Results, *, several: bool) -> Json:
    if not results.specimen:
        return {}
    reference = {"identifier": {"value": results.specimen}}
    return {"specimen": [reference] if several else reference}


def _id(results: Results, what: str) -> str:
    """A UUID that stays the same when the results of a slide are written again."""
    report = results.report
    return str(uuid5(NAMESPACE_URL, f"bloodedge:{report.run['id']}:{report.slide}:{report.started.isoformat()}:{what}"))
