"""Asks the checks of this host's endpoints, and keeps their rows at what was found.

Level-triggered: what is asked follows from the rows as they are, and what is saved from what the checks say as a
whole; a change that could not be saved is tried again. While the agent is away nothing is asked, and what was found
last stands; a start takes it up from the rows.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

import trio

from netagent.checks.ask import Question, ask_all
from netagent.checks.schedule import COMMANDS_AT_ONCE, CheckSchedule
from netagent.checks.spec import subject_text
from netagent.checks.state import Answer, EndpointHealth, Outcome, Unasked
from netagent.errors import NetagentError
from netagent.journal.rows import LocalEndpointRow
from netagent.log import Limited
from netagent.model.check import Check, CheckedHealth, ExecCheck, HttpCheck, TcpCheck
from netagent.model.ids import EndpointId
from netagent.model.records import STOP, Health
from netagent.registry.local_rows import LocalRows
from netagent.registry.state_store import StateStore
from netgossip.deadlines import NEVER, DeadlineHeap

SAVED_AT_ONCE: Final = 16
"""Bound of results that are saved at the same time; beyond it: others wait. When all endpoints of a host fall at
once, the journal writes several in one transaction."""
RETRY_S: Final = 2.0
"""Pause before a result that could not be saved is saved again: the disk is full."""
ROWS_AT_ONCE: Final = 200
"""Rows that are looked through before other tasks run."""

logger = logging.getLogger("netagent.checks")
_limited = Limited(logger)

Execute: TypeAlias = Callable[[LocalEndpointRow, ExecCheck, float], Awaitable[Answer]]
"""Runs the command of a check in a container, by its runtime, within so many seconds."""


@dataclass(eq=False, slots=True)
class _Watched:
    """An endpoint with checks, in one namespace."""

    row: LocalEndpointRow
    machine: EndpointHealth
    questions: tuple[Question | None, ...]
    """Of each check; None for a command."""
    is_being_saved: bool = False

    def is_life_of(self, row: LocalEndpointRow) -> bool:
        """True if what was found is about this row: the same checks of the same run of its container."""
        is_here = self.row.netns is not None and self.row.netns.is_same_as(row.netns)
        return is_here and self.row.checks == row.checks


_Key: TypeAlias = tuple[_Watched, int]


class CheckRunner:
    """`run` until cancelled."""

    def __init__(
        self,
        live: StateStore,
        save: Callable[[LocalEndpointRow, CheckedHealth], Awaitable[None]],
        execute: Execute,
        rng: Random,
        ask: Callable[[Sequence[Question], Callable[[int, Answer], None]], Awaitable[None]] = ask_all,
    ) -> None:
        """`save` makes what was found the endpoint's health, unless the row is another one by now."""
        self._live = live
        self._save_result = save
        self._execute = execute
        self._ask_all = ask
        self._watched: dict[EndpointId, _Watched] = {}
        self._schedule: CheckSchedule[_Key] = CheckSchedule(
            rng,
            owner_of=lambda key: key[0].row.endpoint_id,
            is_command=lambda key: key[0].questions[key[1]] is None,
        )
        self._waiting: DeadlineHeap[EndpointId] = DeadlineHeap()
        """When a change comes that an endpoint's health holds back."""
        self._room = trio.CapacityLimiter(SAVED_AT_ONCE)
        self._commands = trio.CapacityLimiter(COMMANDS_AT_ONCE)
        """Commands that run because an operator asks, beside those that are due."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """Checks that were made, by kind and result."""
        self._woken = trio.Event()
        self._sleeps_until = 0.0
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._ask_what_is_due)
            await self._follow_rows()

    def healths(self) -> Counter[Health]:
        """Return how many endpoints have checks, by what these say."""
        return Counter(one.machine.checked.health for one in self._watched.values())

    # -- which endpoints are checked -----------------------------------------------------------------------------

    async def _follow_rows(self) -> None:
        revision, seen = -1, LocalRows()
        while True:
            revision = await self._live.wait_newer(revision)
            rows = self._live.rows
            touched = rows.touched_since(seen)
            all_known = {*rows, *self._watched} if touched is None else touched
            for number, endpoint_id in enumerate(all_known, 1):
                self._follow(endpoint_id, self._live.rows.get(endpoint_id))
                if number % ROWS_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            seen = rows

    def _follow(self, endpoint_id: EndpointId, row: LocalEndpointRow | None) -> None:
        watched = self._watched.get(endpoint_id)
        is_checked = row is not None and row.is_published and bool(row.checks) and not _is_stopping(row)
        if watched is not None and (row is None or not is_checked or not watched.is_life_of(row)):
            del self._watched[endpoint_id]
            self._waiting.discard(endpoint_id)
            for number in range(len(watched.row.checks)):
                self._schedule.drop((watched, number))
            watched = None
        if row is None or not is_checked:
            return
        now, unix_s = trio.current_time(), int(time.time())
        if watched is None:
            machine = EndpointHealth(row.checks, row.checked, now, unix_s)
            watched = _Watched(row, machine, tuple(question_of(row, check) for check in row.checks))
            self._watched[endpoint_id] = watched
            for number in range(len(row.checks)):
                self._schedule.add((watched, number), now)
            self._wake()
        watched.row = row
        watched.machine.handle_runtime(row.health, now, unix_s)
        self._decide_later(watched)
        self._save_soon(watched)

    # -- asking ----------------------------------------------------------------------------------------------------

    async def ask_now(self, row: LocalEndpointRow) -> list[tuple[Check, Answer, float]]:
        """Ask all checks of an endpoint once, without an effect on its health; return what each came to, with None
        if it could not be asked, and how long that took in seconds."""
        began_at = trio.current_time()
        found: dict[Check, tuple[Answer, float]] = {}

        def end(check: Check, outcome: Answer) -> None:
            found[check] = outcome, trio.current_time() - began_at

        async def execute(check: Check, subject: ExecCheck) -> None:
            async with self._commands:
                end(check, await self._execute(row, subject, check.timeout_s))

        questions = [(check, one) for check in row.checks if (one := question_of(row, check)) is not None]
        async with trio.open_nursery() as nursery:
            for check in row.checks:
                if isinstance(check.subject, ExecCheck):
                    nursery.start_soon(execute, check, check.subject)
            network = [one for _, one in questions]
            await self._ask_all(network, lambda number, outcome: end(questions[number][0], outcome))
        return [(check, *found[check]) for check in row.checks]

    async def _ask_what_is_due(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                asked = []
                self._decide_what_waited()
                for key in self._schedule.take(trio.current_time()):
                    if (question := key[0].questions[key[1]]) is None:
                        nursery.start_soon(self._run_command, key)
                    else:
                        asked.append((key, question))
                if asked:
                    nursery.start_soon(self._ask, asked)
                self._woken = trio.Event()
                self._sleeps_until = self._next_moment()
                with trio.move_on_at(self._sleeps_until):
                    await self._woken.wait()

    def _wake(self) -> None:
        """Wake the task above, if something is due earlier than it knows."""
        if self._next_moment() < self._sleeps_until:
            self._woken.set()

    def _next_moment(self) -> float:
        return min(self._schedule.next_moment(), self._waiting.next())

    def _decide_later(self, watched: _Watched) -> None:
        """Note until when a change of the endpoint's health waits, if one does."""
        endpoint_id, at = watched.row.endpoint_id, watched.machine.decides_at
        if at != self._waiting.at(endpoint_id):
            self._waiting.set(endpoint_id, at) if at < NEVER else self._waiting.discard(endpoint_id)
            self._wake()

    def _decide_what_waited(self) -> None:
        now, unix_s = trio.current_time(), int(time.time())
        while (endpoint_id := self._waiting.pop_due(now)) is not None:
            watched = self._watched[endpoint_id]
            watched.machine.handle_time(now, unix_s)
            self._decide_later(watched)
            self._save_soon(watched)

    async def _ask(self, asked: Sequence[tuple[_Key, Question]]) -> None:
        await self._ask_all(
            [question for _, question in asked], lambda number, outcome: self._end(asked[number][0], outcome)
        )

    async def _run_command(self, key: _Key) -> None:
        check = _check_of(key)
        assert isinstance(check.subject, ExecCheck)
        self._end(key, await self._execute(key[0].row, check.subject, check.timeout_s))

    def _end(self, key: _Key, outcome: Answer) -> None:
        (watched, number), now = key, trio.current_time()
        is_current = self._watched.get(watched.row.endpoint_id) is watched
        machine, unix_s = watched.machine, int(time.time())
        self.counts[_kind_of(_check_of(key)), _result_of(outcome)] += 1
        if outcome is None or isinstance(outcome, Unasked):
            what = f"{subject_text(_check_of(key).subject)} of {watched.row.name}"
            text = "its last state stands" if outcome is None else outcome.text
            _limited.warning(what, f"cannot ask {what}: {text}")
        if outcome is not None and is_current:
            before = machine.checked
            if isinstance(outcome, Unasked):
                machine.handle_unasked(number, outcome, now, unix_s)
            else:
                machine.handle_outcome(number, outcome, now, unix_s)
            self._decide_later(watched)
            if machine.checked is not before:
                self._save_soon(watched)
        self._schedule.end(key, watched.machine.interval_s(number, now), now)
        self._wake()

    # -- saving ----------------------------------------------------------------------------------------------------

    def _save_soon(self, watched: _Watched) -> None:
        if watched.machine.checked != watched.row.checked and not watched.is_being_saved:
            watched.is_being_saved = True
            self._nursery.start_soon(self._save, watched)

    async def _save(self, watched: _Watched) -> None:
        """Save what the checks say, until nothing newer is to be saved."""
        machine, name, saved = watched.machine, watched.row.name, watched.row.checked
        try:
            while self._watched.get(watched.row.endpoint_id) is watched and machine.checked != saved:
                found = machine.checked
                try:
                    async with self._room:
                        await self._save_result(watched.row, found)
                except (NetagentError, OSError) as error:
                    _limited.warning(name, f"cannot publish the health of {name} yet: {error}")
                    await trio.sleep(RETRY_S)
                    continue
                saved = found
        finally:
            watched.is_being_saved = False


def _is_stopping(row: LocalEndpointRow) -> bool:
    """True if its container was asked to stop: that its program stops to answer is no news, and no change to tell."""
    return row.drain is not None and row.drain.by == STOP


def question_of(row: LocalEndpointRow, check: Check) -> Question | None:
    """Return the question of a check that is asked through the network of its container; None for a command."""
    assert row.netns is not None
    if isinstance(check.subject, ExecCheck):
        return None
    return Question(check.subject, row.netns, row.addresses, check.timeout_s)


def _kind_of(check: Check) -> str:
    match check.subject:
        case HttpCheck(is_tls=is_tls):
            return "https" if is_tls else "http"
        case TcpCheck():
            return "tcp"
    return "exec"


def _result_of(outcome: Answer) -> str:
    match outcome:
        case Outcome(is_success=is_success):
            return "success" if is_success else "failure"
    return "not_asked"


def _check_of(key: _Key) -> Check:
    watched, number = key
    return watched.row.checks[number]
