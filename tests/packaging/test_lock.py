"""The locks hold what pyproject.toml asks for, and the bill of materials what the environment of a release has."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def packaging_scripts() -> Iterator[None]:
    """They import one another by their bare names."""
    sys.path.insert(0, str(ROOT / "packaging"))
    yield
    sys.path.remove(str(ROOT / "packaging"))


@pytest.fixture
def lock(packaging_scripts: None) -> ModuleType:
    return importlib.import_module("lock")


@pytest.fixture
def bill(packaging_scripts: None) -> ModuleType:
    return importlib.import_module("bill_of_materials")


@pytest.fixture
def audit(packaging_scripts: None) -> ModuleType:
    return importlib.import_module("audit")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.txt", PROJECT["project"]["dependencies"]),
        ("build-requirements.txt", PROJECT["build-system"]["requires"]),
    ],
)
def test_a_lock_is_current(lock: ModuleType, name: str, wanted: list[str]) -> None:
    pins = lock.read(ROOT / "packaging" / name)
    for line in wanted:
        requirement = Requirement(line)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"{name} lacks {line}: run make lock"
        assert requirement.specifier.contains(pin.version), f"{name} has {pin}, not {line}: run make lock"
    asked = {canonicalize_name(Requirement(line).name) for line in wanted}
    for pin in pins.values():
        assert pin.hashes
        by_us = not pin.needed_by or "netagent" in pin.needed_by
        assert by_us <= (pin.name in asked), f"nothing needs {pin.name}: run make lock"
        assert pin.needed_by <= {*pins, "netagent", "-r"}


def test_what_a_locked_library_needs_is_locked(lock: ModuleType) -> None:
    """As far as the same versions are installed here, whose needs can be read without an index."""
    pins = lock.read(lock.LOCK)
    seen = 0
    for pin in pins.values():
        try:
            if version(pin.name) != pin.version:
                continue
        except PackageNotFoundError:
            continue
        for line in requires(pin.name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                seen += 1
                assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)].version), line
    assert seen


@pytest.mark.parametrize("name", ["requirements.txt", "build-requirements.txt"])
def test_nothing_of_a_machine_is_in_a_lock(name: str) -> None:
    text = (ROOT / "packaging" / name).read_text()
    assert "/" not in text
    assert "index-url" not in text
    assert "find-links" not in text


def test_a_line_that_is_not_a_lock_s_is_refused(lock: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "lock.txt"
    file.write_text("--extra-index-url example.org\n")
    with pytest.raises(SystemExit, match=r"lock\.txt:1: not a line of a lock"):
        lock.read(file)


def installed(home: Path, name: str, release: str, *lines: str) -> None:
    folder = home / f"lib/python3.13/site-packages/{name}-{release}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {release}", *lines, "", ""])
    )


@pytest.fixture
def home(lock: ModuleType, tmp_path: Path) -> Path:
    """An environment with netagent, trio and outcome as the lock has them."""
    pins = lock.read(lock.LOCK)
    installed(tmp_path, "netagent", "1.2", "License-Expression: Apache-2.0", "Requires-Dist: trio>=0.29")
    installed(
        tmp_path,
        "trio",
        pins["trio"].version,
        "Requires-Dist: outcome",
        'Requires-Dist: netagent; extra == "x"',
    )
    installed(tmp_path, "outcome", pins["outcome"].version)
    return tmp_path


def some_hashes(lock: ModuleType) -> dict[str, str]:
    return {name: min(pin.hashes) for name, pin in lock.read(lock.LOCK).items()}


def test_the_bill_names_what_is_installed_and_who_needs_it(
    lock: ModuleType, bill: ModuleType, home: Path
) -> None:
    hashes = some_hashes(lock)
    text = bill.document(home, hashes)
    assert text == bill.document(home, hashes)
    told = json.loads(text)
    assert told["metadata"]["component"]["purl"] == "pkg:pypi/netagent@1.2"
    assert told["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert [one["name"] for one in told["components"]] == ["outcome", "trio"]
    assert told["components"][1]["hashes"] == [{"alg": "SHA-256", "content": hashes["trio"]}]
    outcome, trio = (one["bom-ref"] for one in told["components"])
    needs = {one["ref"]: one["dependsOn"] for one in told["dependencies"]}
    assert needs == {outcome: [], trio: [outcome], "pkg:pypi/netagent@1.2": [trio]}


def test_the_bill_refuses_what_is_not_locked(lock: ModuleType, bill: ModuleType, home: Path) -> None:
    other = hashlib.sha256(b"another file").hexdigest()
    with pytest.raises(bill.NotLockedError, match=r"trio .* from a file that is not in requirements"):
        bill.document(home, some_hashes(lock) | {"trio": other})
    installed(home, "requests", "2.0")
    with pytest.raises(bill.NotLockedError, match=r"requests 2\.0 is in the environment"):
        bill.document(home, some_hashes(lock))


def test_an_audit_tells_a_vulnerability_from_silence(audit: ModuleType) -> None:
    flaw = {"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}
    answer = json.dumps(
        {
            "dependencies": [
                {"name": "h11", "version": "1.0", "vulns": [flaw]},
                {"name": "Typing_Extensions", "version": "4.0", "vulns": []},
                {"name": "trio", "skip_reason": "Dependency not found on PyPI and could not be audited"},
            ]
        }
    )
    found, missing = audit.judge(answer, ["h11", "trio", "typing-extensions"])
    assert found == ["h11 1.0: PYSEC-1, fixed in 1.1"]
    assert missing == ["trio"]
    assert audit.judge("", ["h11", "trio"]) == ([], ["h11", "trio"])
