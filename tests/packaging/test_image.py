"""The recipe of the image copies from the checkout what the product is made of. Building it needs a network."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copied() -> set[str]:
    """What COPY takes from the checkout."""
    recipe = (ROOT / "packaging" / "Containerfile").read_text()
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", recipe, re.MULTILINE)
    return {word for line in lines for word in line.split()}


def test_all_that_a_build_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert copied() >= needed | {one.partition("/")[0] for one in packages}
    assert all((ROOT / one).exists() for one in copied())
