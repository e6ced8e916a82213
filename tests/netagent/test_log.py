"""Log lines: for people, for journald, and not too many of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from logging import RootLogger

import pytest

from netagent import log


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before = (logger.handlers[:], logger.level)
    yield logger
    logger.handlers[:], level = before[0], before[1]
    logger.setLevel(level)


def test_a_line_goes_to_standard_error_with_its_level(
    root: RootLogger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.configure("info")
    log.configure("warning")
    logging.getLogger("netagent.x").warning("trouble")
    logging.getLogger("netagent.x").info("chatter")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("WARNING netagent.x: trouble")


@pytest.mark.parametrize("library", ["zeroconf", "asyncio"])
def test_what_a_library_meets_is_one_line(
    root: RootLogger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    log.configure("info")
    try:
        raise OSError(99, "Cannot assign requested address")
    except OSError as error:
        logging.getLogger(library).warning("Error with socket 7\n(transport %s)", "x", exc_info=error)
        logging.getLogger("netagent.x").warning("a defect of ours", exc_info=error)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == f"<4>{library}: Error with socket 7: [Errno 99] Cannot assign requested address"
    assert "Traceback" in others[1]


def test_what_a_stranger_said_begins_no_line_and_commands_no_terminal(
    root: RootLogger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.configure("info")
    name = "h2\n2026-01-01 ERROR netagent: forged\x1b[2J\x07\u202e\x9b"
    logging.getLogger("netagent.x").warning("let %s into the cluster", name)
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    log.configure("info")
    logging.getLogger("netagent.x").warning("let %s into the cluster", name)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() and "\\n2026-01-01" in line for line in lines)
    try:
        raise ValueError("trouble")
    except ValueError:
        logging.getLogger("netagent.x").exception("it broke")
    assert len(capsys.readouterr().err.splitlines()) > 2, "a traceback has lines"


def test_under_systemd_the_priority_goes_in_front(
    root: RootLogger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    log.configure("debug")
    logging.getLogger("netagent.x").error("trouble")
    assert capsys.readouterr().err == "<3>netagent.x: trouble\n"


def test_the_same_is_said_once_a_period(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    limited = log.Limited(logging.getLogger("netagent.x"), period_s=60, clock=lambda: now[0])
    for _ in range(5):
        limited.warning("a", "trouble")
    limited.warning("b", "other")
    now[0] += 60
    limited.warning("a", "trouble")
    assert [record.getMessage() for record in caplog.records] == [
        "trouble",
        "other",
        "trouble (and 4 times more)",
    ]
    for number in range(5000):
        limited.warning(f"k{number}", "x")
    assert len(limited._said) <= 1000
