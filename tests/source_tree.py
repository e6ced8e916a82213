"""The product's modules and what they import, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOTS = {"netagent": ROOT, "netgossip": ROOT / "gossip", "netdns": ROOT / "dns"}


def files_of(package: str) -> dict[str, Path]:
    """The package's modules by name."""
    root = ROOTS[package]
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {name: path for package in ROOTS for name, path in files_of(package).items()}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def statements(node: ast.AST, *, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements, those under TYPE_CHECKING among them; without `lazy` not those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(child, lazy=lazy)


@cache
def imports(module: str, *, lazy: bool = True) -> frozenset[str]:
    """Modules, also outside ones, by full name; `from package import module` counts as the module."""
    found = set()
    for statement in statements(tree_of(module), lazy=lazy):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        assert statement.level == 0, f"{module}: relative import"
        base = statement.module or ""
        names = {f"{base}.{alias.name}" for alias in statement.names}
        submodules = names & MODULES.keys()
        found |= submodules
        if submodules != names:
            found.add(base)
    return frozenset(found)


def is_below(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def ours(module: str) -> bool:
    return module.partition(".")[0] in ROOTS


def folder_of(module: str) -> str:
    """The package that a module lies in; a package is its own folder."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
