"""Writes what the documents list of the code: the folders in ARCHITECTURE.md, and every file in reference/modules.md.

`make docs` runs it, and a test holds that what it writes is there. The texts are the docstrings' first sentences.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("gossip/netgossip", "dns/netdns", "netagent")
BEGIN: Final = "<!-- folders: written by `make docs` -->"
END: Final = "<!-- folders end -->"


def main() -> None:
    """Write both."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """What the files should hold."""
    architecture = ROOT / "ARCHITECTURE.md"
    text = architecture.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(["| folder | holds |", "|---|---|", *(_folder_row(folder) for folder in folders())])
    return {
        architecture: f"{before}{BEGIN}\n{table}\n{END}{after}",
        ROOT / "docs/reference/modules.md": _modules(),
    }


def folders() -> Iterator[Path]:
    """The packages and the folders in them, each before what is in it."""
    for package in PACKAGES:
        yield from sorted(path.parent for path in (ROOT / package).rglob("__init__.py"))


def _folder_row(folder: Path) -> str:
    name = folder.relative_to(ROOT).as_posix()
    return f"| `{name}/` | {_first_sentence(folder / '__init__.py')} |"


def _modules() -> str:
    lines = [
        "# Modules",
        "",
        "Every file of the product with what it is for, by folder. `make docs` writes this page from the code.",
        "",
    ]
    for folder in folders():
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"## {folder.relative_to(ROOT).as_posix()}", "", _doc(folder / "__init__.py"), ""]
        if files:
            lines += ["| file | holds |", "|---|---|"]
            lines += [f"| `{path.name}` | {_first_sentence(path)} |" for path in files]
            lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _doc(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _first_sentence(path: Path) -> str:
    """The first paragraph in one line, without the word that marks a file without side effects."""
    paragraph = " ".join(_doc(path).split("\n\n")[0].split())
    return paragraph.removesuffix(" Pure.").removesuffix(".").replace("|", "\\|")


if __name__ == "__main__":
    main()
