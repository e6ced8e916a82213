"""The site of the documents: it builds strictly, has every document, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from harness.browser import browser

ROOT = Path(__file__).parents[1]
CONFIG = "docs/site/mkdocs.yml"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/site/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook = load("hook")
pictures = load("pictures")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make site`, which refuses links and anchors that lead nowhere, and pages that the index does not lead to."""
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: MkDocs then counts no warnings, and so refuses nothing.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--config-file",
            CONFIG,
            "--strict",
            "--site-dir",
            str(folder),
        ],
        cwd=ROOT,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_each_document_is_a_page_and_is_found_by_the_search(site: Path) -> None:
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    documents |= {page for page in hook.OUTSIDE.values() if page.endswith(".md")}
    assert len(documents) > 90
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    for document in documents:
        page = document.removesuffix(".md") + ".html"
        assert (site / page).exists(), page
        assert page in found, page


def test_a_reader_needs_no_other_host(site: Path) -> None:
    """No script, style, picture or font of a page comes from elsewhere; links that a reader follows may."""
    pages = sorted(site.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=[\"']?([^\"' >]+)", text)
        assert loaded
        for address in loaded:
            assert "//" not in address, f"{page}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.parametrize("page", ["index", "how-to/runtimes/docker"])
def test_the_search_works_from_a_disk(site: Path, page: str) -> None:
    """No script of another host is there to stand in for the worker that a page on a disk may not start."""
    with browser() as window:
        window.open((site / f"{page}.html").as_uri())
        field = "const field = document.querySelector('.md-search__input'); field.focus(); "
        ready = f"{field} return field === document.activeElement"
        window.wait(lambda: window.run(ready), "no search to type in")
        window.type("moving from weave")
        window.wait_text("Moving from Weave Net")
        assert window.complaints() == []


def test_each_link_leads_to_a_place_of_the_site(site: Path) -> None:
    """MkDocs checks the links of Markdown; this test also those of the navigation, and all anchors again."""
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    places = {page: {*re.findall(r"\b(?:id|name)=[\"']?([^\"' >]+)", text)} for page, text in texts.items()}
    anchors = 0
    for page, text in texts.items():
        if page.name == "404.html":
            continue  # its links count from the root of a server
        for target in re.findall(r"<a\b[^>]*\bhref=[\"']?([^\"' >]+)", text):
            path, _, anchor = unquote(target).partition("#")
            if "//" in path:
                continue
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page}: {target}"
            if anchor and file in places:
                anchors += 1
                assert anchor in places[file], f"{page}: {target}"
    assert anchors > 1000


def test_the_navigation_is_the_index() -> None:
    index = """# G

## One

- [a](x.md): b
- in [c](../README.md), [again](../README.md#d)

### Two

- [e
  f](y.md#g)
"""
    assert hook.navigation(index) == [
        {"Guide": "index.md"},
        {"One": [{"A": "x.md"}, {"C": "project/overview.md"}, {"Two": [{"E f": "y.md"}]}]},
    ]


def test_lists_are_as_python_markdown_wants_them() -> None:
    text = "Before:\n- one\n  more\n  - two\n\n  ```\n  - code\n  ```\n\nAfter.\n1. three\n\n   four\n"
    lines = ["Before:", "", "- one", "    more", "    - two", "", "    ```", "    - code", "    ```", ""]
    lines += ["After.", "", "1. three", "", "    four", ""]
    assert hook.four_blanks(text) == "\n".join(lines)
    assert hook.four_blanks("```\nx\n- y\n  z\n```\n") == "```\nx\n- y\n  z\n```\n"


def test_the_pictures_are_current_and_say_in_words_what_they_show() -> None:
    """`make docs` writes them."""
    for path, text in pictures.pictures().items():
        assert path.read_text(encoding="utf-8") == text, f"run `make docs`: {path.name}"
        root = ET.fromstring(text)
        parts = {part.get("id"): part.text for part in root if part.get("id")}
        assert all(parts[name] for name in (root.get("aria-labelledby") or "").split())


def test_the_pictures_follow_the_colours_that_the_reader_chose(site: Path) -> None:
    page = (site / "explanation/pictures.html").read_text(encoding="utf-8")
    assert page.count('<figure class="drawing"><svg') == len(pictures.pictures())
    sheet = (site / "assets/netagent.css").read_text(encoding="utf-8")
    for scheme in ("default", "slate"):
        assert f'[data-md-color-scheme="{scheme}"] svg.na' in sheet


@pytest.mark.kernel
def test_the_kernel_takes_the_firewall_of_the_guide() -> None:
    page = (ROOT / "docs/how-to/firewall-ports.md").read_text(encoding="utf-8")
    rules = re.search(r"^```nft\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert rules is not None
    command = ["unshare", "--net", "sh", "-c", "nft --file - && nft list chain inet host_firewall input"]
    done = subprocess.run(command, input=rules[1], text=True, capture_output=True, check=True, timeout=60)
    assert "policy drop" in done.stdout
    assert "4799" in done.stdout
