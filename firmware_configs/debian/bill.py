"""A software bill of materials: every Python distribution in a folder, as CycloneDX 1.6.

    .venv/bin/python firmware_configs/debian/bill.py /opt/bloodedge-fleet bloodedge-fleet.cdx.json

The Debian package contains its own; this command is for virtual environments.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from time import time
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def write_bill(site: Path, target: Path, name: str, version: str, moment_s: int) -> None:
    """Write the bill of all distributions in ``site``; the same folder gives the same bytes."""
    main = Component(name=name, version=version, type=ComponentType.APPLICATION, bom_ref=name)
    found = sorted(distributions(path=[str(site)]), key=lambda package: package.name.lower())
    bill = Bom(components=[component(package) for package in found])
    bill.metadata.component = main
    bill.metadata.timestamp = datetime.fromtimestamp(moment_s, UTC)
    text = f"{name} {version} {[(package.name, package.version) for package in found]}"
    bill.serial_number = uuid5(NAMESPACE_URL, text)
    bill.register_dependency(main, bill.components)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = json.loads(JsonV1Dot6(bill).output_as_string())
    target.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")


def main() -> int:
    """Write the bill of a virtual environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", type=Path, help="a virtual environment with bloodedge in it")
    parser.add_argument("target", type=Path, help="where to write the bill")
    options = parser.parse_args()
    for site in options.environment.glob("lib/python3*/site-packages"):
        for package in distributions(path=[str(site)], name="bloodedge"):
            write_bill(site, options.target, options.environment.resolve().name, package.version, int(time()))
            return 0
    print(f"{options.environment} is not a virtual environment with bloodedge in it.", file=sys.stderr)
    return 2


def component(package: Distribution) -> Component:
    """One distribution, with its licence as its metadata states it."""
    name = package.name.lower().replace("_", "-")
    stated = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
    declared = LicenseAcknowledgement.DECLARED
    licences = []
    if stated and "\n" not in stated and len(stated) < 100:
        licences = [LicenseFactory().make_from_string(stated, license_acknowledgement=declared)]
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", None, name, package.version),
        bom_ref=f"{name}=={package.version}",
        description=package.metadata.get("Summary"),
        licenses=licences,
    )


if __name__ == "__main__":
    sys.exit(main())
