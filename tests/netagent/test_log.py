"""Log lines: for people, for journald, and not too many of them."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from logging import RootLogger
from pathlib import Path

import pytest

from netagent import log, log_form
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.model.author import Author, AuthorKind


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


ALICE = Author(AuthorKind.USER, "alice", 1000, "netagent")


def test_json_has_a_line_per_record_with_the_fields_of_an_event(
    root: RootLogger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.configure("info", "json")
    logger = logging.getLogger("netagent.x")
    logger.info("attached %s\n", "w\u00e4b", extra=event(EventKind.ATTACH, "web", author=ALICE))
    try:
        raise ValueError("trouble")
    except ValueError:
        logger.exception("it broke")
    lines = capsys.readouterr().err.splitlines()
    first, second = map(json.loads, lines)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "netagent.x",
        "message": "attached w\u00e4b\n",
        "event": "attach",
        "subject": "web",
        "author": "alice",
        "author_kind": "user",
        "author_uid": 1000,
        "author_program": "netagent",
    }
    assert (second["level"], second["message"]) == ("error", "it broke")
    assert "ValueError: trouble" in second["traceback"]
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    log.configure("info", "json")
    logger.warning("w")
    assert capsys.readouterr().err.startswith("<4>{")


def fields(entry: bytes) -> dict[str, str]:
    """An entry of the journal, read as journald reads it."""
    found = {}
    while entry:
        name, _, entry = entry.partition(b"\n")
        length = int.from_bytes(entry[:8], "little")
        found[name.decode()] = entry[8 : 8 + length].decode()
        assert entry[8 + length : 9 + length] == b"\n"
        entry = entry[9 + length :]
    return found


def test_the_journal_gets_fields_that_a_text_cannot_forge(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal"))
        handler = log_form.JournalHandler(tmp_path / "journal")
        record = logging.getLogger("netagent.x").makeRecord(
            "netagent.x",
            logging.WARNING,
            "f.py",
            1,
            "attached %s",
            ("x\nPRIORITY=0",),
            None,
            extra=event(EventKind.ATTACH, "web", author=ALICE),
        )
        handler.emit(record)
        assert fields(journald.recv(65536)) == {
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "netagent",
            "MESSAGE": "attached x\nPRIORITY=0",
            "NETAGENT_LOGGER": "netagent.x",
            "NETAGENT_EVENT": "attach",
            "NETAGENT_SUBJECT": "web",
            "NETAGENT_AUTHOR": "alice",
            "NETAGENT_AUTHOR_KIND": "user",
            "NETAGENT_AUTHOR_UID": "1000",
            "NETAGENT_AUTHOR_PROGRAM": "netagent",
        }
        handler.close()


def test_without_journald_the_line_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = log_form.JournalHandler(tmp_path / "nothing")
    handler.emit(logging.LogRecord("netagent.x", logging.ERROR, "f.py", 1, "trouble", None, None))
    handler.close()
    assert capsys.readouterr().err == "<3>netagent.x: trouble\n"


def test_the_journal_is_used_only_where_standard_error_is_its(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(log_form, "JOURNAL_SOCKET", tmp_path / "journal")
    with (tmp_path / "stderr").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        found = os.fstat(file.fileno())
        ours = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert not log_form.writes_to_journal(ours)  # there is no journald
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
            journald.bind(str(tmp_path / "journal"))
            assert log_form.writes_to_journal(ours)
            assert not log_form.writes_to_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
            assert not log_form.writes_to_journal({})


def test_no_fault_is_written_twice_in_a_minute(
    root: RootLogger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    now = [1000.0]
    repeated = log._Repeated(lambda: now[0])
    monkeypatch.setattr(log, "_Repeated", lambda: repeated)
    log.configure("info")
    logger = logging.getLogger("netagent.x")
    for _ in range(5):
        logger.warning("cannot %s 100%%", "write")
        logger.info("attached web")
    logger.error("other")
    now[0] += 60
    logger.warning("cannot %s 100%%", "write")
    said = [line.partition("netagent.x: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said.count("attached web") == 5
    assert [one for one in said if one != "attached web"] == [
        "cannot write 100%",
        "other",
        "cannot write 100% (and 4 times more)",
    ]
    for number in range(5000):
        logger.warning("number %d", number)
    assert len(repeated._said) <= log.MAX_REMEMBERED
