"""Make the site of the same files that a reader of the repository sees.

The documents link to each other as files of the repository, and some lie outside `docs/`. The hook takes these in as
pages of the folder `project/`, and rewrites each link to where its target is in the site. The navigation is
`docs/index.md`: its headings are the sections, its links the pages. Drawings are set into the page, so that they
follow the colours that the reader chose. MkDocs calls the functions `on_…`,
with arguments by name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[2]
OUTSIDE: Final = {
    "README.md": "project/overview.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "LICENSE": "project/license.txt",
    "netns-lab/README.md": "project/netns-lab.md",
    "gossip/README.md": "project/netgossip.md",
    "dns/README.md": "project/netdns.md",
    "tests/SCENARIOS.md": "project/scenarios.md",
    "docs/site/netagent.css": "assets/netagent.css",
    "docs/site/search_from_file.js": "assets/search_from_file.js",
}
"""Files of the repository that the site has elsewhere. All of `docs/` stays where it is."""
_BACK: Final = {site: repository for repository, site in OUTSIDE.items()}
_THEIR_SHIM: Final = "https://unpkg.com/iframe-worker/shim"
_LINK: Final = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_DRAWING: Final = re.compile(r"^!\[[^\]]*\]\(([^)\s]+\.svg)\)$", re.MULTILINE)
_ITEM: Final = re.compile(r"(?:- |\d+\. )(?=\S)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from the index."""
    config.nav = navigation((ROOT / "docs/index.md").read_text(encoding="utf-8"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside `docs/`."""
    for repository, site in OUTSIDE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / repository)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Rewrite the links and the blanks before lists; set drawings in."""
    source = page.file.src_uri
    here = posixpath.dirname(_BACK.get(source, f"docs/{source}"))
    prose = outside_code(four_blanks(markdown))
    return "".join(part if is_code else _prose(part, here, source) for is_code, part in prose)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Let the search of a page on a disk run by a script of the site, where the theme names one of another host."""
    base = posixpath.relpath("assets/search_from_file.js", posixpath.dirname(page.url) or ".")
    return output.replace(_THEIR_SHIM, base)


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Do the same for the page that a server shows where there is none."""
    return output.replace(_THEIR_SHIM, "/assets/search_from_file.js")


def navigation(index: str) -> list[Any]:
    """Return the navigation that an index stands for; each page once, by its first link."""
    nav: list[Any] = [{"Guide": "index.md"}]
    seen: set[str] = set()
    pages: list[Any] = []
    for line in re.sub(r"\n  (?=\S)", " ", index).splitlines():
        if line.startswith("## "):
            section: list[Any] = []
            pages = section
            nav.append({line[3:]: section})
        elif line.startswith("### "):
            pages = []
            section.append({line[4:]: pages})
        elif line.startswith("- "):
            for title, target in _LINK.findall(line):
                path = target.partition("#")[0]
                site = _site_path(posixpath.normpath(posixpath.join("docs", path))) if path else None
                if site is not None and site.endswith(".md") and site not in seen:
                    seen.add(site)
                    pages.append({title[:1].upper() + title[1:]: site})
    return [entry for entry in nav if all(entry.values())]


def outside_code(markdown: str) -> list[tuple[bool, str]]:
    """Return the parts of a page, each with whether it is a fenced block of code."""
    parts = re.split(r"^( *```.*?^ *```[^\n]*\n?)", markdown, flags=re.DOTALL | re.MULTILINE)
    return [(number % 2 == 1, part) for number, part in enumerate(parts)]


def four_blanks(markdown: str) -> str:
    """Return the page with the contents of list items four blanks in, and a blank line before each list.

    CommonMark wants as many blanks as the item's mark is wide, Python-Markdown wants four.
    """
    lines: list[str] = []
    width = 0
    fence = False
    for written in markdown.splitlines():
        line = written
        mark = None if fence else _ITEM.match(line)
        if mark is not None:
            if not width and lines and lines[-1].strip():
                lines.append("")
            width = len(mark[0])
        elif width and line.startswith(" " * width):
            line = "    " + line[width:]
        elif (
            line.strip()
            and width
            and (not lines or not lines[-1].strip() or line.startswith(("#", "```", "|")))
        ):
            width = 0
        if line.lstrip().startswith("```"):
            fence = not fence
        lines.append(line)
    return "\n".join(lines) + "\n"


def _prose(text: str, here: str, source: str) -> str:
    text = _DRAWING.sub(lambda found: _drawing(found[1], here), text)
    return _LINK.sub(lambda found: _link(found[1], found[2], here, source), text)


def _link(text: str, target: str, here: str, source: str) -> str:
    path, mark, anchor = target.partition("#")
    if not path or "://" in target:
        return f"[{text}]({target})"
    repository = posixpath.normpath(posixpath.join(here, path))
    site = _site_path(repository)
    if site is not None:
        return f"[{text}]({posixpath.relpath(site, posixpath.dirname(source) or '.')}{mark}{anchor})"
    if (ROOT / repository).exists():
        return text  # a file of the code: the site does not have it
    return f"[{text}]({target})"  # MkDocs refuses it, and says where it stands


def _site_path(repository: str) -> str | None:
    if repository in OUTSIDE:
        return OUTSIDE[repository]
    return repository.removeprefix("docs/") if repository.startswith("docs/") else None


def _drawing(path: str, here: str) -> str:
    svg = (ROOT / here / path).read_text(encoding="utf-8")
    return f'<figure class="drawing">{svg.strip()}</figure>'.replace("\n", "")
