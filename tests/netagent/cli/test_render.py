import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from netagent.cli.render import Column, Printer, clean, counted, cut, fitted, some, span
from netagent.cli.tables import SERVICES

COLUMNS = (
    Column("NAME", lambda i: i["name"]),
    Column("STATE", lambda i: i["state"]),
    Column("NOTE", lambda i: i.get("note", "")),
    Column("ID", lambda i: "42", wide=True),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def table(form: str, items: list[dict[str, str]], out: io.StringIO | None = None, **environment: str) -> str:
    out = out or io.StringIO()
    Printer(form, out, environment).items(items, COLUMNS, empty="nothing here")
    return out.getvalue()


def test_a_linesis_aligned_and_leaves_empty_columns_out() -> None:
    items = [{"name": "a", "state": "up"}, {"name": "longer", "state": "dead"}]
    assert table("table", items) == "NAME    STATE\na       up\nlonger  dead\n"
    assert (
        table("wide", items) == "NAME    STATE  NOTE  ID\na       up           42\nlonger  dead         42\n"
    )
    assert table("table", []) == "nothing here\n"


def test_colour_is_for_terminals_that_want_it() -> None:
    items = [{"name": "a", "state": "dead"}]
    assert "\x1b[31mdead\x1b[0m" in table("table", items, Terminal())
    assert "\x1b" not in table("table", items, Terminal(), NO_COLOR="1")
    assert "\x1b" not in table("table", items, Terminal(), TERM="dumb")
    assert "\x1b" not in table("table", items)


def test_a_linesfits_the_terminal() -> None:
    items = [{"name": "n" * 40, "state": "up", "note": "x" * 80}]
    lines = table("table", items, Terminal(), COLUMNS="60", NO_COLOR="1").splitlines()
    assert max(map(len, lines)) <= 60
    assert "…" in lines[1]
    assert "x" * 80 in table("table", items, COLUMNS="60"), "what goes into a pipe is whole"


def test_the_size_of_a_real_terminal() -> None:
    primary, secondary = pty.openpty()
    try:
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        with os.fdopen(secondary, "w") as out:
            lines = Printer("table", out, {}).table([{"name": "n" * 60, "state": "up"}], COLUMNS)
    finally:
        os.close(primary)
    assert "…" in lines[1]


@pytest.mark.parametrize(
    ("widths", "limit", "result"),
    [
        ([10, 30], 32, [10, 20]),
        ([30, 30], 42, [20, 20]),
        ([4, 5], 80, [4, 5]),
        ([9, 9], 5, [8, 8]),
    ],
)
def test_the_widest_gives_way(widths: list[int], limit: int, result: list[int]) -> None:
    assert fitted(widths, limit) == result


def test_nothing_from_outside_moves_the_cursor() -> None:
    assert clean("a\x1b[2Jb\nc") == "a?[2Jb?c"
    assert table("table", [{"name": "\x1b]0;x\x07", "state": "up"}]) == "NAME    STATE\n?]0;x?  up\n"


def test_json_is_ascii() -> None:
    assert (
        table("ndjson", [{"name": "ü\x1b", "state": "up"}])
        == '{"schema": 1, "name": "\\u00fc\\u001b", "state": "up"}\n'
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00041, "0.4 ms"),
        (1, "1 s"),
        (59.9, "59 s"),
        (180, "3 min"),
        (3600, "1 h"),
        (18600, "5 h 10 min"),
        (86400, "1 d"),
        (183600, "2 d 3 h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_words() -> None:
    assert counted(1, "host") == "1 host"
    assert counted(1200, "query", "queries") == "1,200 queries"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c +2"
    assert some(["a", "b"]) == "a, b"
    assert cut("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("reported", "shown"),
    [({}, "1/2\n"), ({"unreached": 0}, "1/2\n"), ({"unreached": 1}, "1/2 (1 unreached)\n")],
)
def test_services_count_what_is_not_reached(reported: dict[str, int], shown: str) -> None:
    """An agent of the release before tells nothing of it."""
    column = next(one for one in SERVICES if one.title == "UP")
    out = io.StringIO()
    Printer("table", out, {}).items([{"answering": 1, "endpoint_count": 2, **reported}], (column,), empty="")
    assert out.getvalue() == "UP\n" + shown


def watched(
    out: io.StringIO, *batches: list[tuple[str, dict[str, str]]], form: str = "table", **environment: str
) -> str:
    printer = Printer(form, out, environment)
    for place, rows in enumerate(batches):
        printer.watched(rows, COLUMNS, empty="nothing here", is_first=place == 0)
    return out.getvalue()


def test_a_watched_list_on_a_pipe_has_one_header_and_no_escape_codes() -> None:
    web, database = {"name": "web", "state": "up"}, {"name": "database", "state": "dead"}
    text = watched(io.StringIO(), [(" ", web)], [("+", database), ("-", web)])
    assert text == "  NAME  STATE  NOTE\n  web   up\n+ database  dead\n- web       up\n"
    assert watched(io.StringIO(), [], [("+", web)]) == "  NAME  STATE  NOTE\nnothing here\n+ web   up\n"
    assert watched(io.StringIO(), [(" ", web)], [("-", web)], form="name") == "  web\n- web\n"
    assert watched(Terminal(), [(" ", web)], [("-", web)], TERM="dumb") == watched(
        io.StringIO(), [(" ", web)], [("-", web)]
    )


def test_a_watched_list_on_a_terminal_is_shown_anew_and_marked_without_colour_too() -> None:
    web = {"name": "web", "state": "up"}
    clear, header = "\x1b[H\x1b[J", "  NAME  STATE\n"
    assert (
        watched(Terminal(), [], [("+", web)], NO_COLOR="1")
        == f"{clear}nothing here\n{clear}{header}+ web   up\n"
    )
    assert "\x1b[32m+\x1b[0m web" in watched(Terminal(), [("+", web)])
    assert "\x1b[31m-\x1b[0m web" in watched(Terminal(), [("-", web)])
    narrow = watched(Terminal(), [("~", {"name": "x" * 80, "state": "up"})], NO_COLOR="1", COLUMNS="40")
    assert max(map(len, narrow.removeprefix(clear).splitlines())) == 40
