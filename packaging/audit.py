"""Asks whether vulnerabilities are known in what a release contains or is built with.

    python packaging/audit.py

asks PyPI and, if that can't say, OSV, with pip-audit. Exit status: 0 nothing is known; 1 a vulnerability is known,
and the output names it; 2 pip-audit is missing; 3 a library could not be asked about, so nothing is known of it.
pip-audit itself reports libraries that it could not ask about as clean.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import lock

SERVICES = ("pypi", "osv")

VULNERABLE, NOT_ASKED = 1, 3


def judge(answer: str, expected: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of one answer of pip-audit: lines that name vulnerabilities, and the libraries that it says nothing about."""
    try:
        told = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [], list(expected)
    asked = {lock.normal(one["name"]) for one in told if "vulns" in one}
    found = [
        f"{one['name']} {one['version']}: {flaw['id']}"
        + (f", fixed in {', '.join(flaw['fix_versions'])}" if flaw["fix_versions"] else ", no fixed version")
        for one in told
        for flaw in one.get("vulns", ())
    ]
    return found, [name for name in expected if name not in asked]


def _ask(path: Path, service: str) -> str:
    command = [
        sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--requirement", str(path),
        "--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off",
    ]  # fmt: skip
    # What it writes when a service is out of reach is a traceback.
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def main() -> None:
    """Ask about both locks and exit as the module says."""
    if importlib.util.find_spec("pip_audit") is None:
        print("pip-audit is missing; `make audit` installs it", file=sys.stderr)
        sys.exit(2)
    found: list[str] = []
    silent: list[str] = []
    for path in (lock.LOCK, lock.BUILD_LOCK):
        missing = list(lock.read(path))
        for service in SERVICES:
            if missing:
                more, missing = judge(_ask(path, service), missing)
                found += more
        silent += missing
    for line in sorted(set(found)):
        print(line)
    if silent:
        print(
            f"nothing was found out about {len(silent)} libraries ({', '.join(silent[:3])}"
            f"{', …' if len(silent) > 3 else ''}): neither PyPI's list of vulnerabilities nor api.osv.dev answers"
            " for them; try again from a machine that reaches one of them",
            file=sys.stderr,
        )
    elif not found:
        print("no vulnerability is known in what a release contains or is built with")
    sys.exit(VULNERABLE if found else NOT_ASKED if silent else 0)


if __name__ == "__main__":
    main()
