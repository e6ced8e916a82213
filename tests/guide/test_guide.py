"""The commands of the documents do what the documents say, typed by a reader who follows them page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from guide.pages import PAGES
from guide.reader import Reader, readers
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = pytest.mark.runtimes


@pytest.fixture(scope="module")
def reader(new_lasting_lab: Callable[[], Lab]) -> Iterator[Reader]:
    lab = new_lasting_lab()
    lab.up(of_hosts(3), runtimes=True)
    with readers(lab) as one:
        yield one


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if page.is_long else []) for name, page in PAGES.items()],
)
def test_a_reader_who_follows_it_sees_what_it_shows(reader: Reader, name: str) -> None:
    reader.begin()
    reader.follow(name, PAGES[name])
