"""The tables of README.md: each promise of SECURITY.md has its tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLES = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows_of(text: str) -> list[list[str]]:
    """The cells of the first table in a text, without its head."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[0].splitlines()[2:]]


def promises() -> list[str]:
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    _, _, section = security.partition("\n## What is protected, and from whom\n")
    return [row[1].lstrip("| ") for row in rows_of(section) if row[1].lstrip("| ")]


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_promise_of_the_security_page_has_one_row_with_tests() -> None:
    rows = [[cell.lstrip("| ") for cell in row] for row in rows_of(TABLES)]
    assert all(TEST.search(row[1]) for row in rows)
    for promise in promises():
        assert len([row for row in rows if promise.startswith(row[0])]) == 1, promise
    for row in rows:
        assert any(promise.startswith(row[0]) for promise in promises()), f"no longer promised: {row[0]}"


def test_all_tests_that_are_named_exist() -> None:
    named = TEST.findall(TABLES)
    assert len(named) == TABLES.count("`tests/"), "each by its file and name"
    for path, name in named:
        assert name in functions_of(path), f"{path}::{name}"


def test_all_tests_of_this_folder_are_in_a_table() -> None:
    named = set(TEST.findall(TABLES))
    for path in Path(__file__).parent.glob("test_*.py"):
        if path != Path(__file__):
            file = str(path.relative_to(ROOT))
            missing = {
                name for name in functions_of(file) if name.startswith("test_") and (file, name) not in named
            }
            assert not missing, f"{file}: {missing}"
