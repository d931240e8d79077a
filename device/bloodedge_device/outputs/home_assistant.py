"""Home Assistant's device discovery over MQTT: one retained message that says what the status message holds.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypedDict

from bloodedge import RESEARCH_USE
from bloodedge_device.settings.sections import MqttSettings


class StatusPayload(TypedDict):
    """The retained status message, ``TOPIC/BOARD/status``; figures are of the slide in hand."""

    blast_percent: float | None
    """Corrected for what the classifier gets wrong and refuses; None before the first called cell, and where the bundle
    does not say how often it errs."""
    blast_percent_low: float | None
    blast_percent_high: float | None
    """Ends of its 95 % interval."""
    blast_percent_called: float | None
    """Of called cells, as called; None before the first."""
    cells_called: int
    cells_uncertain: int
    frames_per_second: float
    focus: float | None
    """Of the newest frame, as the frame gate measures it."""
    slide: str
    """The slide's label."""
    camera: str
    """The camera's state in a word or a sentence."""
    problem: str
    """What is wrong, a sentence; empty when nothing is."""


@dataclass(frozen=True)
class DeviceDescription:
    """What Home Assistant shows of the board."""

    hardware: str
    version: str
    """Of bloodedge."""
    bundle: str
    """Name and serial of the bundle that runs."""
    page: str | None = None
    """Address of the board's own page, http(s)://…"""


_MEASURED = {"state_class": "measurement"}

SENSORS: dict[str, dict[str, Any]] = {
    "blast_percent": {
        "name": "Blast share",
        "unit_of_measurement": "%",
        "suggested_display_precision": 1,
        **_MEASURED,
    },
    "blast_percent_low": {
        "name": "Blast share, at least",
        "unit_of_measurement": "%",
        "suggested_display_precision": 1,
        **_MEASURED,
    },
    "blast_percent_high": {
        "name": "Blast share, at most",
        "unit_of_measurement": "%",
        "suggested_display_precision": 1,
        **_MEASURED,
    },
    "blast_percent_called": {
        "name": "Blast share of called cells, uncorrected",
        "unit_of_measurement": "%",
        "suggested_display_precision": 1,
        "entity_category": "diagnostic",
        **_MEASURED,
    },
    "cells_called": {"name": "Cells called", "unit_of_measurement": "cells", **_MEASURED},
    "cells_uncertain": {"name": "Cells uncertain", "unit_of_measurement": "cells", **_MEASURED},
    "frames_per_second": {
        "name": "Frame rate",
        "unit_of_measurement": "fps",
        "suggested_display_precision": 1,
        **_MEASURED,
    },
    "focus": {"name": "Focus", "suggested_display_precision": 2, "entity_category": "diagnostic", **_MEASURED},
    "slide": {"name": "Slide"},
    "camera": {"name": "Camera", "entity_category": "diagnostic"},
}
"""By key of StatusPayload."""


def _identifier(board: str) -> str:
    """A board's name in Home Assistant: of letters, digits, "_" and "-" alone, and no other board's."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "-", board)
    if clean != board:  # as may be what another name becomes
        clean = f"{clean}-{sha256(board.encode()).hexdigest()[:8]}"
    return f"bloodedge-{clean}"


def discovery(settings: MqttSettings, device: DeviceDescription) -> tuple[str, dict[str, Any]]:
    """(topic, payload) of the discovery message."""
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
            "model": f"{device.hardware}, {device.bundle}",
            "sw_version": device.version,
            **({"configuration_url": device.page} if device.page else {}),
        },
        "origin": {"name": "bloodedge", "sw_version": device.version},
        "availability_topic": f"{base}/availability",
        "state_topic": f"{base}/status",
        "qos": 1,
        "components": components,
    }
    return f"{settings.discovery}/device/{name}/config", payload
