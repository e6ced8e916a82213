"""`netagent top`: the state of cluster and host, live, on a terminal.

Lists are watched, each by a thread, so that the agent sends only what changes; `status` is asked every few seconds.
If the agent goes away, the screen keeps what was known, says so, and asks again.
"""

from __future__ import annotations

import curses
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from netagent.cli.client_commands import DONE, CommandContext, runs
from netagent.cli.render import Item
from netagent.cli.top.screen import BOLD, DIM, TROUBLE, WARNING, TopState, frame
from netagent.control.client import Client
from netagent.errors import InputError, NetagentError
from netagent.interface.cluster import MembersCommand
from netagent.interface.command import Command
from netagent.interface.questions import EventsCommand, ServicesCommand, StatusCommand, TopCommand

STATUS_S = 3.0
"""`status` asks the host's name servers as well, so not more often."""
REDRAW_S = 0.25
AGAIN_S = 2.0
"""Between two attempts to reach an agent."""

MAX_WAITING = 1_000
"""Bound of batches of changes that wait for the screen; beyond it: the watch waits, and the agent with it."""

_LISTS: dict[str, Callable[[], Command[Any]]] = {
    "members": MembersCommand,
    "services": ServicesCommand,
    "events": EventsCommand,
}

Change = Callable[[TopState, float], None]
"""What a thread has learnt, to be noted by the one that draws, at that time."""


@runs(TopCommand)
def top(session: CommandContext, _request: TopCommand) -> int:
    """Draw until the user quits."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("`netagent top` needs a terminal", thing="top", hint="use `netagent status --json`")
    session.client.send(StatusCommand())  # or an error on a screen that is not cleared
    changes: queue.Queue[Change] = queue.Queue(MAX_WAITING)
    threading.Thread(target=_ask, args=(session.client, changes), daemon=True).start()
    for table in _LISTS:
        threading.Thread(target=_follow, args=(session.client, table, changes), daemon=True).start()
    curses.wrapper(_draw, changes)
    return DONE


def _ask(client: Client, changes: queue.Queue[Change]) -> None:
    while True:
        try:
            status = client.send(StatusCommand())
        except NetagentError as error:
            changes.put(partial(_note_trouble, str(error)))
        else:
            changes.put(partial(_note_status, status))
        time.sleep(STATUS_S)


def _follow(client: Client, table: str, changes: queue.Queue[Change]) -> None:
    while True:
        try:
            batches = client.follow(_LISTS[table]())
            changes.put(partial(_note_first, table, next(batches)))
            for batch in batches:
                changes.put(partial(_note_next, table, batch))
        except (NetagentError, StopIteration):
            time.sleep(AGAIN_S)  # the one that asks for status says why


def _note_trouble(text: str, state: TopState, _now_s: float) -> None:
    state.trouble = text


def _note_status(status: Item, state: TopState, now_s: float) -> None:
    state.take_status(status, now_s)


def _note_first(table: str, batch: Sequence[Item], state: TopState, now_s: float) -> None:
    state.begin_again(table)
    state.take(table, batch, now_s)


def _note_next(table: str, batch: Sequence[Item], state: TopState, now_s: float) -> None:
    state.take(table, batch, now_s)


def _draw(screen: curses.window, changes: queue.Queue[Change]) -> None:
    styles = _styles()
    screen.timeout(int(REDRAW_S * 1000))
    state, offset = TopState(), 0
    while True:
        now_s = time.monotonic()
        for _ in range(MAX_WAITING):
            try:
                changes.get_nowait()(state, now_s)
            except queue.Empty:
                break
        height, width = screen.getmaxyx()
        screen.erase()
        for row, (text, style) in enumerate(frame(state, width - 1, height, now_s, offset)):
            screen.addstr(row, 0, text, styles.get(style, 0))
        screen.refresh()
        match screen.getch():
            case 113 | 81 | 27:  # q, Q, escape
                return
            case curses.KEY_DOWN:
                offset += 1
            case curses.KEY_UP:
                offset = max(0, offset - 1)
            case curses.KEY_NPAGE:
                offset += height // 2
            case curses.KEY_PPAGE:
                offset = max(0, offset - height // 2)
            case _:
                pass
        offset = min(offset, len(state.services))


def _styles() -> dict[str, int]:
    """Return the attributes of each style. A terminal without colours has bold and dim; the words say the rest."""
    curses.curs_set(0)
    styles = {BOLD: curses.A_BOLD, DIM: curses.A_DIM, WARNING: curses.A_BOLD, TROUBLE: curses.A_BOLD}
    if curses.has_colors():
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_YELLOW, -1)
        curses.init_pair(2, curses.COLOR_RED, -1)
        styles |= {WARNING: curses.color_pair(1), TROUBLE: curses.color_pair(2) | curses.A_BOLD}
    return styles
