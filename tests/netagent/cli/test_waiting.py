"""What a command says on the terminal while the agent works."""

from __future__ import annotations

import io
import threading

import pytest

from netagent.cli import client_commands


class Terminal(io.StringIO):
    """Standard error, a terminal or not, that tells when something was written."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal
        self.written = threading.Event()

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_what_takes_longer_is_said_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(is_terminal=True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(client_commands, "WAITING_S", 0.0)
    with client_commands.waiting("asking the members"):
        assert terminal.written.wait(10)
    assert terminal.getvalue().startswith("netagent: asking the members … ")
    assert terminal.getvalue().endswith("\x1b[K"), "nothing of it stays on the line"


def test_a_script_and_a_quick_answer_see_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, waiting_s in ((True, 60.0), (False, 0.0)):
        terminal = Terminal(is_terminal=is_terminal)
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr(client_commands, "WAITING_S", waiting_s)
        before = threading.active_count()
        with client_commands.waiting("asking the members"):
            assert is_terminal or threading.active_count() == before, "nothing will be said"
        assert not terminal.getvalue()
