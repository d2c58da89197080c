"""Known vulnerabilities of the versions that are pinned and allowed: what `make audit` runs.

pip-audit looks up two sets: `constraints.txt`, and the lowest versions that `pyproject.toml`
allows (`bench.lowest`). Exit codes:

- 0: every package of both sets was looked up, and nothing was found;
- 1: a vulnerability was found, or only a part of a set could be looked up;
- 2: nothing was looked up, because the service could not be reached.

pip-audit alone exits 0 when its service knows none of the packages, as behind a mirror without the
vulnerability data: here that is code 2.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.lowest import PYPROJECT, constraints

PINNED = PYPROJECT.parent / "constraints.txt"

# docs/decisions/0012-floors.md says why these do not raise a floor
ACCEPTED = {
    "CVE-2025-3000": "torch.jit.script is not called",
    "CVE-2026-4538": "a .pt2 file is loaded by the process that wrote it, no other",
}


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the exit code for a report of pip-audit (format json), and the lines to print."""
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return 2, [f"not audited: the service found none of {len(packages)} packages"]
    lines = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"fixed in {', '.join(vulnerability['fix_versions']) or 'no version'}"
        for package in packages
        for vulnerability in package.get("vulns", ())
    ]
    if skipped:
        lines.append(f"not found by the service: {', '.join(skipped)}")
    return (1, lines) if lines else (0, [f"{len(packages)} packages, nothing known"])


def audit(requirements: Path) -> tuple[int, list[str]]:
    """Look up pinned requirements and return the exit code and the lines to print."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements)]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    for name in ACCEPTED:
        command += ["--ignore-vuln", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return verdict(json.loads(done.stdout))
    except json.JSONDecodeError:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return 2, [f"not audited: pip-audit ended with {reason}"]


def main() -> int:
    """Audit both sets, print what was found, and return the highest exit code."""
    codes = []
    with tempfile.TemporaryDirectory() as folder:
        floors = Path(folder) / "floors.txt"
        floors.write_text("\n".join(constraints(PYPROJECT.read_text(encoding="utf-8"))))
        for name, path in (("constraints.txt", PINNED), ("lowest versions", floors)):
            code, lines = audit(path)
            codes.append(code)
            print(*(f"audit: {name}: {line}" for line in lines), sep="\n")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
