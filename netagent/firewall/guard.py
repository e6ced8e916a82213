"""The loop that keeps our tables equal to what they should be, whichever of them changes.

Two things wake it: new inputs, and the ruleset's generation number, read twice a second, which shows that some
program changed something. Then everything of ours is read back, and if anything differs, the tables are installed
again as a whole. A failure is shown with its reason and tried again after growing pauses. Nothing happens before the
first inputs, and nothing when the loop ends: the kernel keeps the tables, and the next agent takes them over.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from typing import Final

import trio

from netagent.errors import FailedError
from netagent.events.channel import REPAIRED
from netagent.firewall.driver import Tables
from netagent.firewall.incremental import RulesetBuilder
from netagent.firewall.inputs import FirewallInput
from netagent.firewall.policy import AUDITED_PACKETS
from netagent.firewall.ruleset import Ruleset
from netagent.firewall.text import CROWDED
from netagent.log import Limited
from netagent.periodic_task import PeriodicTask

PERIOD_S: Final = 0.5
"""One netlink message each time; a flush of the host's rules removes ours for no longer than this plus a start of
`nft`, well within the promised two seconds."""
RETRY_MIN_S, RETRY_MAX_S = 0.5, 10.0

_log = logging.getLogger(__name__)
_limited = Limited(_log)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardStatus:
    """The firewall's state for `status` and `doctor`."""

    programmed_generation: int
    """Of the last inputs that the tables follow; -1 before the first."""
    restored: int
    """How often another program changed or removed our tables and we restored them, since the start."""
    dropped: dict[str, int]
    """Dropped packets by reason."""
    audited: int = 0
    """Packets that passed because the policy is `audit` (netagent.firewall.policy)."""
    crowded: frozenset[tuple[str, str]] = frozenset()
    """(Bridge, address) of containers that were refused a connection beyond their quota, of late."""
    uncounted: str = ""
    """Why containers' connections are not counted; empty when they are, or need not be."""
    trouble: str
    """Why the tables are not as they should be; empty when they are."""


class Guard:
    """Keeps the tables. One task: `run`. Owns the socket of `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._given: FirewallInput | None = None
        """None: there should be no tables."""
        self._maker = RulesetBuilder()
        self._generation = -1
        self._programmed_generation = -1
        self._wanted: Ruleset | None = None
        """The ruleset for the latest inputs."""
        self._installed: Ruleset | None = None
        """The ruleset believed to be in the kernel; None: install everything."""
        self._is_tried = False
        """Whether there has been a pass with inputs: the first one may find tables of an earlier agent."""
        self._seen = -1
        self._is_sure = True
        """False: another program changed rules while we installed the tables, so install them once more."""
        self._restored = 0
        self._trouble = ""
        self._silent_s = RETRY_MIN_S
        self._silent_until = 0.0
        """When to try again to make the kernel reject."""
        self._task = PeriodicTask(PERIOD_S)
        self._changed = trio.Event()

    async def run(self) -> None:
        """Work until cancelled; leave the kernel as it is."""
        retry_s = RETRY_MIN_S
        with self._tables.sock:
            while True:
                try:
                    await self._pass()
                    self._trouble = ""
                    if self._is_sure:
                        pause_s, retry_s = PERIOD_S, RETRY_MIN_S
                    else:
                        pause_s, retry_s = retry_s, min(2 * retry_s, RETRY_MAX_S)
                except FailedError as error:
                    self._fail(str(error))
                    pause_s, retry_s = retry_s, min(2 * retry_s, RETRY_MAX_S)
                self._ring()
                await self._task.wait(pause_s)

    def set_desired(self, given: FirewallInput | None, generation: int) -> None:
        """Set what the tables should follow from now on (None: no tables, this host leaves for good); `generation`
        grows from call to call."""
        if given != self._given:
            self._given = given
            self._wanted = self._maker.make(given) if given is not None else None
        self._generation = generation
        self._task.wake()

    @property
    def trouble(self) -> str:
        """Why the tables are not as they should be; empty when they are."""
        return self._trouble

    async def wait_tried(self, generation: int) -> None:
        """Return once the tables are those of `generation` or later, or were refused: see `trouble`."""
        while self._programmed_generation < generation and not self._trouble:
            await self._changed.wait()

    async def wait_tunnel_only(self) -> None:
        """Return once the kernel lets VXLAN pass the encrypted tunnel only. Waits while the tables are refused."""
        while self._installed is None or not self._installed.is_fenced:
            await self._changed.wait()

    def status(self) -> GuardStatus:
        """Return what the tables have done, and what is wrong with them."""
        counted = self._tables.counters() if self._installed is not None else {}
        audited = counted.pop(AUDITED_PACKETS, 0)
        return GuardStatus(
            programmed_generation=self._programmed_generation,
            restored=self._restored,
            dropped=counted,
            audited=audited,
            crowded=self._tables.crowded() if counted.get(CROWDED) else frozenset(),
            uncounted=self._tables.uncounted,
            trouble=self._trouble or self._tables.silent,
        )

    async def _pass(self) -> None:
        wanted, generation = self._wanted, self._generation
        if generation < 0:
            return
        if wanted is None:
            if self._programmed_generation < generation:
                await self._tables.remove()
            self._installed, self._programmed_generation = None, generation
            return
        before = self._installed
        if self._installed is None and not self._is_tried:
            self._installed, self._seen = self._tables.adopt(wanted) or (None, -1)
        self._is_tried = True
        is_disturbed = self._installed is not None and self._is_sure and self._is_disturbed()
        if is_disturbed:
            self._installed = None
            _limited.warning(
                "tables",
                "firewall: another program changed or removed netagent's tables: restoring them",
                REPAIRED,
            )
        is_due = bool(self._tables.silent) and trio.current_time() >= self._silent_until
        must_put = is_due or not self._is_sure
        if self._installed is None or must_put or not self._changed_to(self._installed, wanted):
            installed, self._installed = None if must_put else self._installed, None
            seen = await self._tables.install(wanted, installed, self._seen)
            self._seen, self._is_sure = seen or -1, seen is not None
            self._installed = wanted
            self._silent_until = trio.current_time() + self._silent_s
            self._silent_s = min(2 * self._silent_s, RETRY_MAX_S) if self._tables.silent else RETRY_MIN_S
        if before is not None and before is not wanted:
            await self._tables.forget_datagrams(before, wanted)
        self._restored += is_disturbed
        self._programmed_generation = generation

    def _changed_to(self, installed: Ruleset, wanted: Ruleset) -> bool:
        """Change by elements alone; False when the tables must be installed again."""
        if installed is wanted:
            return True
        try:
            is_done = self._tables.change(installed, wanted)
            if is_done and self._tables.generation() == self._seen + 1:
                self._seen += 1  # only our own change: nothing to read back
        except OSError as error:
            _log.warning(
                "firewall: netagent's tables refuse a change (%s): installing them again", error.strerror
            )
            self._installed = None
            return False
        if is_done:
            self._installed = wanted
        return is_done

    def _is_disturbed(self) -> bool:
        try:
            now = self._tables.generation()
            if now == self._seen:
                return False
            is_whole = self._tables.are_whole()
        except OSError as error:
            if error.errno == errno.EINTR:
                return False  # changed during the read; the number has moved, so the next pass looks again
            raise FailedError(f"cannot read the host's ruleset: {error.strerror}", code="firewall") from error
        if is_whole:
            self._seen = now
        return not is_whole

    def _fail(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.warning("firewall: %s", trouble)
        self._trouble = trouble

    def _ring(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
