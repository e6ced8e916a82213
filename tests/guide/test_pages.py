"""The table of pages lacks no command of the documents and has none that is gone; and how pages are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from guide.pages import ELSEWHERE, PAGES
from guide.shown import commands, shape

ROOT = Path(__file__).parents[2]
SHOWING = {
    path.relative_to(ROOT).as_posix(): {one.typed for one in shown}
    for path in sorted({*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")})
    if (shown := [one for one in commands(path.read_text(encoding="utf-8")) if not one.is_pattern])
}


def test_each_document_that_shows_commands_is_followed_or_listed() -> None:
    assert {*PAGES, *ELSEWHERE} == SHOWING.keys()
    assert not PAGES.keys() & ELSEWHERE.keys()
    assert all(ELSEWHERE.values())


@pytest.mark.parametrize("name", PAGES)
def test_its_row_names_commands_that_it_shows(name: str) -> None:
    page = PAGES[name]
    assert {*page.typed, *page.left_out} <= SHOWING[name]
    assert not page.typed.keys() & page.left_out.keys()
    assert all(page.left_out.values())
    text = (ROOT / name).read_text(encoding="utf-8")
    assert all(old in text for old in page.replaced)


def test_commands_are_found_with_and_without_a_prompt_and_inside_lists() -> None:
    text = """
```
$ netagent members
NAME  ADDRESS
h1    192.0.2.1

$ netagent services
```

1. First:

   ```
   sudo netagent init
   sudo netagent attach netns:web \\
       --network app
   ```

    docker run web      # on one host
    docker stop web     at once

    not = "a command"

```toml
netagent = 1
```

```
http = "a file"
```
"""
    found = [(one.line, one.typed, one.output) for one in commands(text)]
    assert found == [
        (3, "netagent members", "NAME  ADDRESS\nh1    192.0.2.1"),
        (3, "netagent services", ""),
        (13, "sudo netagent init", ""),
        (13, "sudo netagent attach netns:web --network app", ""),
        (18, "docker run web", ""),
        (18, "docker stop web", ""),
    ]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("h1  192.0.2.1  alive  0.3 ms", "h1    192.0.2.33     alive   12 ms\n"),
        ("web (7f19b1cb5459) on h2", "web (0123456789ab) on h2"),
        (
            "fd5c:ddad:235c:a9a7::2/64 since 2026-12-01 22:13:05 UTC",
            "fd00::1:2/64 since 2030-01-02 01:02:03 UTC",
        ),
        ("SERVICE  UP\nweb  1/2  …", "SERVICE  UP\nweb  1/2  h1, h2\ndb  1/1"),
        ("a line that is\nbroken here", "a line that is broken here"),
    ],
)
def test_figures_and_addresses_may_differ(shown: str, printed: str) -> None:
    assert shape(shown).fullmatch(printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("h1  alive", "h1  dead"),
        ("web  1/2", "web  2/2"),
        ("http=80/tcp", "http=81/tcp"),
        ("web1 on h1", "web1 on h2"),
        ("NAME  ADDRESS", "NAME  ADDRESS  ZONE"),
        ("10.160.0.2", "fd00::2"),
    ],
)
def test_words_may_not(shown: str, printed: str) -> None:
    assert not shape(shown).fullmatch(printed)
