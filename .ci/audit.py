"""Known vulnerabilities of the packages that are installed here, by pip-audit.

Exit code 1 if there is one without a reason below. A service that cannot be reached, or does not
know a package, is told of, and no failure: a machine without network can run everything else.
"""

import json
import subprocess  # nosec B404
import sys
from pathlib import Path

ACCEPTED: dict[str, str] = {}
"""Reasons, by the vulnerability's id, why it does not matter here."""


def main() -> int:
    """Ask, and say what was answered."""
    pip_audit = Path(sys.executable).with_name("pip-audit")
    words = [str(pip_audit), "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    asked = subprocess.run(words, capture_output=True, text=True, check=False)  # nosec B603
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except ValueError:
        last = (asked.stderr.strip().splitlines() or ["no word of why"])[-1]
        print(f"audit: NOT DONE, the vulnerability service cannot be reached: {last}")
        return 0
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [
        (package["name"], package["version"], flaw["id"], flaw["fix_versions"])
        for package in packages
        for flaw in package.get("vulns", [])
    ]
    for name, version, flaw, fixed in found:
        reason = ACCEPTED.get(flaw)
        print(f"{name} {version}: {flaw}, fixed in {fixed}: {reason or 'NO REASON GIVEN'}")
    answered = len(packages) - len(unknown)
    print(f"audit: the service knew {answered} of {len(packages)} packages, {len(found)} flaws")
    if unknown:
        print(f"audit: NOT DONE for {len(unknown)}: {', '.join(unknown[:5])} ...")
    return 1 if any(flaw not in ACCEPTED for _, _, flaw, _ in found) else 0


if __name__ == "__main__":
    sys.exit(main())
