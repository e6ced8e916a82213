"""The lock files: every library that a release contains or is built with, at one version, with its hashes.

    python packaging/lock.py [--upgrade]

writes them anew from pyproject.toml, with uv; what is locked stays as it is, as far as it still fits, without
`--upgrade`. The locks serve every platform and every Python that netagent supports: what only some need has a marker.

A lock is a requirements file, so pip installs it, and checks the hash of every file that it downloads, without a
program of ours (`pip install --require-hashes`). Nothing of the machine that wrote it is in it: neither a folder nor
the address of an index.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "packaging" / "requirements.txt"
"""What netagent needs when it runs."""
BUILD_LOCK = ROOT / "packaging" / "build-requirements.txt"
"""What makes a wheel of the checkout; no part of a release."""

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))? \\$")
_HASH = re.compile(r"^    --hash=sha256:([0-9a-f]{64})( \\)?$")
_NEEDED_BY = re.compile(r"^    # (?:via |  )([A-Za-z0-9._-]+)(?: \(.*\))?$")


@dataclass(frozen=True)
class Pin:
    """One library in a lock."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]
    needed_by: frozenset[str]


def normal(name: str) -> str:
    """The name as the lock spells it: `typing_extensions` and `Typing.Extensions` are one library."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(path: Path) -> dict[str, Pin]:
    """The libraries of a lock by name. Exits with a message if a line is not what uv writes."""
    found: dict[str, Pin] = {}
    name, version, marker = "", "", ""
    hashes: set[str] = set()
    needed_by: set[str] = set()

    def close() -> None:
        if name:
            found[name] = Pin(name, version, marker, frozenset(hashes), frozenset(needed_by))
        hashes.clear()
        needed_by.clear()

    for number, line in enumerate(path.read_text().splitlines(), 1):
        if pin := _PIN.match(line):
            close()
            name, version, marker = normal(pin["name"]), pin["version"], pin["marker"] or ""
        elif digest := _HASH.match(line):
            hashes.add(digest[1])
        elif needer := _NEEDED_BY.match(line):
            needed_by.add(normal(needer[1]))
        elif not line.startswith("#") and line != "    # via":
            sys.exit(f"{path}:{number}: not a line of a lock: {line}")
    close()
    return found


def _write(path: Path, arguments: list[str], wanted: str | None) -> None:
    # Of the caller's settings only those that say where the index is: another machine must write the same file.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--system-certs",
        "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links",
        "--custom-compile-command", "make lock", "--output-file", str(path.relative_to(ROOT)), *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, input=wanted, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"uv could not write {path.relative_to(ROOT)}: status {done.returncode}")


def main() -> None:
    """Write both locks."""
    parser = argparse.ArgumentParser(description="Write the lock files from pyproject.toml.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    _write(LOCK, ["pyproject.toml", *upgrade], None)
    _write(BUILD_LOCK, ["-", *upgrade], "\n".join(project["build-system"]["requires"]))
    for path in (LOCK, BUILD_LOCK):
        print(f"{path.relative_to(ROOT)}: {len(read(path))} libraries")


if __name__ == "__main__":
    main()
