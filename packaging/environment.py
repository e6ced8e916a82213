"""Builds the Python environment of a release: netagent and its libraries, exactly as the locks say.

    python packaging/environment.py HOME [--bill-of-materials FILE]

The package and the image are made with this. pip takes nothing that is not in `packaging/requirements.txt`, or has
another version or another hash there; it gets the files from its configured index. netagent's own wheel is built
without an index, by the tools of `packaging/build-requirements.txt`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import bill_of_materials
import lock

SYSTEM_PYTHON = "/usr/bin/python3"


def build(home: Path) -> Mapping[str, str]:
    """Make the environment in the new folder `home`; return the SHA-256 of the file of each library, by name."""
    with tempfile.TemporaryDirectory(prefix="netagent-environment-") as name:
        tools, wheels, report = Path(name) / "tools", Path(name) / "wheels", Path(name) / "report.json"
        run([SYSTEM_PYTHON, "-m", "venv", str(tools)])
        run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(home)])
        pip = [str(tools / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "install", "--require-hashes", "--requirement", str(lock.BUILD_LOCK)])
        run(
            [
                *pip,
                "wheel",
                "--no-build-isolation",
                "--no-deps",
                "--no-index",
                "--wheel-dir",
                str(wheels),
                str(lock.ROOT),
            ]
        )
        install = [
            *pip,
            "--python",
            str(home / "bin/python"),
            "install",
            "--no-compile",
            "--no-warn-script-location",
        ]
        run([*install, "--require-hashes", "--requirement", str(lock.LOCK), "--report", str(report)])
        run([*install, "--no-deps", "--no-index", *map(str, wheels.iterdir())])
        return _hashes(json.loads(report.read_text()))


def _hashes(report: Mapping[str, list[dict[str, dict[str, dict[str, dict[str, str]]]]]]) -> dict[str, str]:
    """What pip reports of each file that it installed from."""
    return {
        lock.normal(str(one["metadata"]["name"])): one["download_info"]["archive_info"]["hashes"]["sha256"]
        for one in report["install"]
    }


def run(command: Sequence[str]) -> str:
    """What the command prints; ends this program if it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False, umask=0o022
    )
    if done.returncode != 0:
        sys.exit(f"failed with status {done.returncode}: {' '.join(command)}")
    return done.stdout


def main() -> None:
    """Build the environment and, where asked for, its bill of materials."""
    parser = argparse.ArgumentParser(description="Build the Python environment of a release.")
    parser.add_argument("home", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--bill-of-materials", type=Path, metavar="FILE", help="write what is in it")
    arguments = parser.parse_args()
    hashes = build(arguments.home)
    if arguments.bill_of_materials is not None:
        arguments.bill_of_materials.write_text(bill_of_materials.document(arguments.home, hashes))


if __name__ == "__main__":
    main()
