"""The bill of materials of a release (SBOM): which libraries it contains, in CycloneDX's JSON.

    python packaging/bill_of_materials.py FILE

builds the release's environment in a temporary folder and writes its bill; the package contains the same. It names
what is installed in the environment, not what the lock allows, and refuses what the lock does not have. The same
environment gives the same text: there is no time in it, and the serial number follows from the content.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

import lock

OWN = "netagent"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"

_NAME_OF_REQUIREMENT = re.compile(r"^[A-Za-z0-9._-]+")
_OF_AN_EXTRA = re.compile(r"\bextra\s*==")
_LICENSE_CLASSIFIER = "License :: OSI Approved :: "
_NAMESPACE = uuid.UUID("6d1f6a0e-0f0b-5c0e-9d5c-5c1d4b8f6f2a")
"""Of our serial numbers; any would do."""


class NotLockedError(Exception):
    """The environment has something that the lock does not have."""


def document(home: Path, hashes: Mapping[str, str]) -> str:
    """The bill of the environment `home`, whose libraries came from files with these SHA-256."""
    folders = [str(folder) for folder in sorted(home.glob("lib/python*/site-packages"))]
    found = {lock.normal(one.metadata["Name"]): one for one in distributions(path=folders)}
    own = found.pop(OWN)
    pins = lock.read(lock.LOCK)
    for name, library in sorted(found.items()):
        if name not in pins or pins[name].version != library.version:
            raise NotLockedError(
                f"{name} {library.version} is in the environment, but not in {lock.LOCK.name}"
            )
        if hashes.get(name) not in pins[name].hashes:
            raise NotLockedError(
                f"{name} {library.version} was installed from a file that is not in {lock.LOCK.name}"
            )
    references = {name: _reference(name, library.version) for name, library in found.items()}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(OWN, own, "application")},
        "components": [
            _component(name, library, "library") | {"hashes": [{"alg": "SHA-256", "content": hashes[name]}]}
            for name, library in sorted(found.items())
        ],
        "dependencies": [
            {
                "ref": _reference(name, library.version),
                "dependsOn": sorted(references[needed] for needed in _needs(library) if needed in references),
            }
            for name, library in sorted({**found, OWN: own}.items())
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(bill, sort_keys=True))
    return json.dumps({"$schema": SCHEMA, "serialNumber": serial.urn} | bill, indent=1) + "\n"


def _reference(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _component(name: str, library: Distribution, kind: str) -> dict[str, object]:
    reference = _reference(name, library.version)
    return {
        "type": kind,
        "bom-ref": reference,
        "name": name,
        "version": library.version,
        "purl": reference,
        "licenses": list(_licenses(library)),
    }


def _licenses(library: Distribution) -> Iterable[dict[str, object]]:
    """As the library's metadata has it: an expression of SPDX, or names in the words of its authors."""
    if "License-Expression" in library.metadata:
        yield {"expression": library.metadata["License-Expression"]}
        return
    classifiers = library.metadata.get_all("Classifier") or []
    names = [
        one.removeprefix(_LICENSE_CLASSIFIER) for one in classifiers if one.startswith(_LICENSE_CLASSIFIER)
    ]
    if not names and "License" in library.metadata and "\n" not in library.metadata["License"]:
        names = [library.metadata["License"]]
    for one in names:
        yield {"license": {"name": one}}


def _needs(library: Distribution) -> set[str]:
    """Names of what it requires, whatever the platform, but for its extras."""
    needs = set()
    for line in library.requires or ():
        name = _NAME_OF_REQUIREMENT.match(line)
        if name and not _OF_AN_EXTRA.search(line):
            needs.add(lock.normal(name[0]))
    return needs


def main() -> None:
    """Write the bill of the environment that a release made now would contain."""
    import environment

    parser = argparse.ArgumentParser(description="Write the bill of materials of a release.")
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    with tempfile.TemporaryDirectory(prefix="netagent-bill-") as name:
        home = Path(name) / "home"
        hashes = environment.build(home)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document(home, hashes))
    print(file)


if __name__ == "__main__":
    main()
