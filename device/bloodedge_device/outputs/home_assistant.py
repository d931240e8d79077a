"""Home Assistant's device discovery over MQTT: a retained message that describes the status message.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

import re
from hashlib import sha256
from typing import Any, TypedDict

from bloodedge import RESEARCH_USE, __version__
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.snapshot.snapshot import Snapshot


class StatusPayload(TypedDict):
    """The retained status message, ``TOPIC/BOARD/status``; figures are of the current slide."""

    blast_percent: float | None
    """Corrected for what the classifier gets wrong and refuses; None before the first called cell, and where the bundle
    does not say how often it errs."""
    blast_percent_low: float | None
    blast_percent_high: float | None
    """Ends of its 95 % interval."""
    blast_percent_called: float | None
    """Blasts among called cells, not corrected; None before the first."""
    verdict: str
    """What the slide as a whole looks like; empty where the bundle holds no held-out people's scores."""
    cells_called: int
    cells_uncertain: int
    leucocytes: int
    """Counted in the differential."""
    leucocytes_missing: int | None
    """Still to be counted; None where kinds are not told."""
    neutrophil_percent: float | None
    """Of leucocytes, as told; as the next."""
    lymphocyte_percent: float | None
    frames_per_second: float
    focus: float | None
    """Sharpness of the newest frame, from the frame gate."""
    slide: str
    """The slide's label."""
    camera: str
    """The camera's state in a word or a sentence."""
    problem: str
    """What is wrong, a sentence; empty when nothing is."""


def status_payload(snapshot: Snapshot) -> StatusPayload:
    """The status message of a snapshot."""
    slide, picture = snapshot.slide, snapshot.picture
    share = None if slide is None else slide.share.estimate
    has_interval = share is not None and share.corrected is not None
    problems = [condition.sentence for condition in snapshot.conditions.values() if condition.level]
    camera = snapshot.conditions.get("camera")
    differential = None if slide is None else slide.differential
    return {
        "blast_percent": _percent(share.corrected) if share is not None else None,
        "blast_percent_low": _percent(share.low) if share is not None and has_interval else None,
        "blast_percent_high": _percent(share.high) if share is not None and has_interval else None,
        "blast_percent_called": _percent(share.called) if share is not None else None,
        "verdict": slide.verdict.headline if slide is not None and slide.verdict is not None else "",
        "cells_called": 0 if slide is None else slide.counts.called,
        "cells_uncertain": 0 if slide is None else slide.counts.cells["uncertain"],
        "leucocytes": 0 if differential is None else differential.leucocytes,
        "leucocytes_missing": None if differential is None else differential.more,
        "neutrophil_percent": None if differential is None else _percent(differential.row("neutrophil").share),
        "lymphocyte_percent": None if differential is None else _percent(differential.row("lymphocyte").share),
        "frames_per_second": round(snapshot.frames_per_second, 2),
        "focus": None if picture is None or picture.result.focus is None else round(picture.result.focus, 3),
        "slide": "" if slide is None else slide.label or f"Slide {slide.id}",
        "camera": "" if camera is None else camera.sentence,
        "problem": problems[0] if problems else "",
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


_MEASURED = {"state_class": "measurement"}
_PERCENT = {"unit_of_measurement": "%", "suggested_display_precision": 1}
_DIAGNOSTIC = {"entity_category": "diagnostic"}

SENSORS: dict[str, dict[str, Any]] = {
    "blast_percent": {"name": "Blast share", **_PERCENT, **_MEASURED},
    "blast_percent_low": {"name": "Blast share, at least", **_PERCENT, **_MEASURED},
    "blast_percent_high": {"name": "Blast share, at most", **_PERCENT, **_MEASURED},
    "blast_percent_called": {
        "name": "Blast share of called cells, uncorrected",
        **_PERCENT,
        **_DIAGNOSTIC,
        **_MEASURED,
    },
    "verdict": {"name": "Slide as a whole"},
    "cells_called": {"name": "Cells called", "unit_of_measurement": "cells", **_MEASURED},
    "cells_uncertain": {"name": "Cells uncertain", "unit_of_measurement": "cells", **_MEASURED},
    "leucocytes": {"name": "Leucocytes counted", "unit_of_measurement": "cells", **_MEASURED},
    "leucocytes_missing": {"name": "Leucocytes still to count", "unit_of_measurement": "cells", **_MEASURED},
    "neutrophil_percent": {"name": "Neutrophils", **_PERCENT, **_MEASURED},
    "lymphocyte_percent": {"name": "Lymphocytes", **_PERCENT, **_MEASURED},
    "frames_per_second": {
        "name": "Frame rate",
        "unit_of_measurement": "fps",
        "suggested_display_precision": 1,
        **_MEASURED,
    },
    "focus": {"name": "Focus", "suggested_display_precision": 2, **_DIAGNOSTIC, **_MEASURED},
    "slide": {"name": "Slide"},
    "camera": {"name": "Camera", **_DIAGNOSTIC},
}
"""By key of StatusPayload."""


def _identifier(board: str) -> str:
    """A board's name in Home Assistant: only letters, digits, "_" and "-", and different from every other board's."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "-", board)
    if clean != board:  # another name may become the same
        clean = f"{clean}-{sha256(board.encode()).hexdigest()[:8]}"
    return f"bloodedge-{clean}"


def discovery(
    settings: MqttSettings, hardware: str, bundle: str, page: str | None = None
) -> tuple[str, dict[str, Any]]:
    """(topic, payload) of the discovery message.

    bundle: the title of the one that runs; page: the address of the board's own page, http(s)://….
    """
    name = _identifier(settings.board)
    base = f"{settings.topic}/{settings.board}"
    components = {
        key: {
            "platform": "sensor",
            "unique_id": f"{name}-{key}",
            "value_template": f"{{{{ value_json.{key} }}}}",
            **fields,
        }
        for key, fields in SENSORS.items()
    }
    components["problem"] = {
        "platform": "binary_sensor",
        "unique_id": f"{name}-problem",
        "name": "Problem",
        "device_class": "problem",
        "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}",
        "json_attributes_topic": f"{base}/status",
        "json_attributes_template": f"{{{{ {{'problem': value_json.problem, 'use': '{RESEARCH_USE}'}} | tojson }}}}",
    }
    payload = {
        "device": {
            "identifiers": [name],
            "name": f"Bloodedge {settings.board}",
            "manufacturer": "bloodedge",
            "model": f"{hardware}, {bundle}",
            "sw_version": __version__,
            **({"configuration_url": page} if page else {}),
        },
        "origin": {"name": "bloodedge", "sw_version": __version__},
        "availability_topic": f"{base}/availability",
        "state_topic": f"{base}/status",
        "qos": 1,
        "components": components,
    }
    return f"{settings.discovery}/device/{name}/config", payload
