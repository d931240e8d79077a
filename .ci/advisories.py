"""Known vulnerabilities in the pinned dependencies: fails when there are any, and says so loudly when nobody was asked.

    python .ci/advisories.py constraints.txt

pip-audit asks PyPI; an index that knows no advisories answers nothing, and pip-audit then ends well without having
audited anything. Here that is told apart.
"""

import json
import subprocess
import sys

COMMAND = "-m pip_audit --progress-spinner off --no-deps --disable-pip --format json --timeout 10 -r"


def main() -> int:
    """0: nothing known, or nobody to ask; 1: vulnerabilities."""
    done = subprocess.run([sys.executable, *COMMAND.split(), sys.argv[1]], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"Dependencies: NOT AUDITED, the advisories cannot be reached ({said[:200]}).")
        return 0
    skipped = [one["name"] for one in found if "skip_reason" in one]
    bad = [(one["name"], one["version"], one["vulns"]) for one in found if one.get("vulns")]
    for name, version, vulnerabilities in bad:
        print(f"{name} {version}: {', '.join(one['id'] for one in vulnerabilities)}; raise its version.")
    if len(skipped) == len(found):
        print(f"Dependencies: NOT AUDITED, the index here knows no advisories for any of {len(found)}.")
    else:
        print(f"Dependencies: {len(found) - len(skipped)} audited, {len(bad)} with advisories, {len(skipped)} unknown.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
