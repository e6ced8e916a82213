"""Watcher of what Podman does not pass to its plug-in: labels, health, and the end of a container without a cleanup.

Level-triggered: it checks all endpoints of Podman twice per second and whenever they change. Normally the check of a
container is three stat(2), of its first process, its resolv.conf and its health log: 200 cost 2 ms.

The end of a container is determined by its namespace, never guessed. Podman keeps the namespace as a file under
/run/netns, so it outlives its processes; and conmon, which would tear the container down, may be killed with it. So
when the first process is gone, the watcher reads all of /proc: while a process runs in the namespace, or has the
container's id among its arguments (conmon, or a `podman container cleanup` that is about to start it again), the
endpoint stays. If no process is found, and still none a little later, it is withdrawn. Podman itself considers the
container running until a user tries to use it (seen with 5.4).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import trio

from netagent.checks.spec import subject_text
from netagent.endpoints.resolv_conf import RESOLVER_ADDRESS
from netagent.errors import NetagentError, RefusedError
from netagent.integrations import labels
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.integrations.podman.command import MAX_AT_ONCE, Podman
from netagent.integrations.podman.database import ContainerStates, DatabaseWatch, read_states_untrusted
from netagent.integrations.podman.health import together
from netagent.integrations.podman.netavark import TARGET, container_of
from netagent.integrations.podman.netns_processes import (
    changed_at,
    ensure_nameserver,
    has_timers,
    inhabited,
    lives,
    read_health,
)
from netagent.integrations.podman.report import PodmanContainer
from netagent.journal.rows import LocalEndpointRow
from netagent.log import Limited
from netagent.model.check import ExecCheck
from netagent.model.ids import EndpointId, nearest_name
from netagent.model.records import STOP, Health
from netagent.registry.state_store import StateStore

LOOK_S = 0.5
"""Seconds between checks. Three detect that a container is gone, one detects a change of health: both within the
promised 2 s."""
QUIET_S = 0.4
"""For this long no process must be found in a namespace, or a resolv.conf not be written: between two steps of Podman
there may be no process, or half a file, for an instant."""
ASK_AGAIN_S = 2.0
"""Seconds before Podman is asked again about a container that has no process yet, or another one than before."""
STOPS_APART_S = 0.02
"""Seconds between two reads of Podman's database, while commits to it come without a pause."""
NOT_READ_S = 2.0
"""How long a container gets no names, because it may have a health check, while Podman does not answer."""
STARTING_S = 10.0
"""Within this time after `setup` a container has a process, or its start has failed."""
UNSTARTED_S = 60.0
"""The same for a container for which Podman reports no process: it may still be filling a volume. After that, it has
ended, and so has the process that should have torn it down."""
RECHECK_S = 30.0
"""The same for one with a problem, which a user may have fixed."""

logger = logging.getLogger("netagent.podman")
_limited = Limited(logger)


@dataclass(slots=True)
class WatchedContainer:
    """What is known of a container with an endpoint."""

    namespace: tuple[int, int]
    """Device and inode: a container that Podman starts again gets another one, and all facts are read again."""
    since: float
    """When it was first seen, on trio's clock, like `ask_at`."""
    is_new: bool = False
    """True if it had no names when it was first seen, because nothing was known of it."""
    container: PodmanContainer | None = None
    """None until Podman has answered."""
    members: tuple[PodmanContainer, ...] = ()
    """The containers of the pod whose namespace it owns."""
    is_unknown: bool = False
    """True if root's Podman without options does not know the container."""
    ask_at: float = 0.0
    alone_since: float = math.inf
    """Since when no process is found in the namespace."""
    trouble: str = ""
    label_flaws: tuple[str, ...] = ()
    """A sentence for each invalid label."""
    flaws: int = 0
    """Consecutive failures of Podman to report the labels of its image."""
    folder_changed_at: int = 0
    """Time of `container.folder` when the pod's containers were last read."""
    resolv_conf: tuple[int, float] = (0, 0.0)
    """Time of the last change of its resolv.conf, and since when it is known; inf: the file is correct."""
    has_log: bool = False
    """True if a log of its health was read."""
    health_read: dict[str, tuple[int, Health]] = field(default_factory=dict)
    """By path of the log: the time of its last change, and the health in it."""

    def is_absent(self, now: float) -> bool:
        """True if its first process has ended, or Podman does not know it; a Podman with another storage may be just
        starting it."""
        if self.is_unknown:
            return now > self.since + STARTING_S
        if self.container is None:
            return False
        if self.container.pid <= 0:
            return now > self.since + UNSTARTED_S
        return not lives(self.container.pid, self.namespace)


class PodmanWatcher:
    """`run` until cancelled; `troubles` are requests of users that Podman cannot fulfil."""

    def __init__(self, podman: Podman, membership: Membership) -> None:
        self._podman = podman
        self._membership = membership
        self._followed: dict[str, WatchedContainer] = {}
        self._asking = False
        self._storage = ""
        """The folder of Podman's storage, in which its database is."""
        self._stops_wanted = trio.Event()
        self._has_stops = True
        """True if an endpoint may be drained because its container stops."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return one sentence for each container whose published ports are not forwarded, and each invalid label."""
        texts = (text for one in self._followed.values() for text in (one.trouble, *one.label_flaws))
        return tuple(sorted(filter(None, texts)))

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_commits)
            nursery.start_soon(self._follow_stops)
            while True:
                try:
                    member = self._membership()
                except RefusedError:
                    self._followed.clear()
                    await trio.sleep(LOOK_S)
                    continue
                rows = member.live.rows
                await self.look(member)
                due = {} if self._asking else self._due()
                if due:
                    self._asking = True
                    nursery.start_soon(self._ask, member, due)
                with trio.move_on_after(LOOK_S):
                    await _wait_other_rows(member.live, rows)

    # -- checks ----------------------------------------------------------------------------------------------

    async def look(self, member: ClusterAccess) -> None:
        """Check all containers once: which are gone, and the health of the others."""
        rows = _by_container(member.live.rows.values())
        for container_id in self._followed.keys() - rows.keys():
            del self._followed[container_id]
        absent: dict[str, tuple[int, int]] = {}
        now = trio.current_time()
        for container_id, mine in rows.items():
            one = self._followed_as(container_id, mine[0])
            if one.is_absent(now):
                absent[container_id] = one.namespace
            else:
                one.alone_since = math.inf
                _keep_nameserver(one, now)
                await _publish_health(member, mine, self._health(one, now))
        if not absent:
            return
        inhabitants = await trio.to_thread.run_sync(inhabited, absent)
        for container_id in absent:
            one = self._followed[container_id]
            if container_id in inhabitants:
                one.alone_since = math.inf
                one.ask_at = min(one.ask_at, now + ASK_AGAIN_S)
                continue
            one.alone_since = min(one.alone_since, now)
            if now - one.alone_since >= QUIET_S:
                for row in rows[container_id]:
                    await _withdraw(member, row)

    def _followed_as(self, container_id: str, row: LocalEndpointRow) -> WatchedContainer:
        assert row.netns is not None, "published endpoints are in a namespace"
        namespace = row.netns.identity
        one = self._followed.get(container_id)
        if one is None or one.namespace != namespace:
            is_new = row.health is Health.STARTING
            one = WatchedContainer(namespace=namespace, since=trio.current_time(), is_new=is_new)
            self._followed[container_id] = one
        return one

    def _health(self, one: WatchedContainer, now: float) -> Health | None:
        """Return the health to publish; None: nothing new is known."""
        if one.container is None:
            # Leave it as it is: the row of a container that ran before the agent's start has a newer health.
            is_asked = one.is_unknown or now > one.since + NOT_READ_S
            return Health.UNKNOWN if is_asked and one.is_new else None
        checked = [who for who in (one.container, *one.members) if who.health_logs]
        logs = [path for who in checked for path in who.health_logs]
        for path in one.health_read.keys() - set(logs):
            del one.health_read[path]
        # Podman writes the log when it starts the container; a log that never appears must not hide the names.
        one.has_log |= bool(one.health_read)
        is_early = not one.has_log and now < one.since + STARTING_S
        before = Health.STARTING if is_early else Health.UNKNOWN
        health = together(read_health(one.health_read, path, before) for path in logs)
        if health is Health.STARTING and not (has_timers() and all(o.is_checked_by_itself for o in checked)):
            return Health.UNKNOWN  # no timer runs the check: it would stay STARTING for ever
        return health

    # -- stops ---------------------------------------------------------------------------------------------------

    async def _watch_commits(self) -> None:
        """Look for stops after each commit to Podman's database."""
        while True:
            try:
                watch = DatabaseWatch()
            except OSError as error:
                _limited.warning("inotify", f"cannot see which containers Podman is stopping: {error}")
                await trio.sleep(RECHECK_S)
                continue
            while not self._storage or not watch.add(self._storage):
                await trio.sleep(LOOK_S)
            while watch.add(self._storage):  # again, because the folder may have been replaced
                self._stops_wanted.set()
                with trio.move_on_after(RECHECK_S):
                    await watch.wait_commit()

    async def _follow_stops(self) -> None:
        """Withdraw the names of containers that Podman is stopping, and give the others theirs back."""
        while True:
            await self._stops_wanted.wait()
            self._stops_wanted = trio.Event()
            read_at = trio.current_time()
            # Before the read: what is learnt meanwhile needs another one.
            had_stops, self._has_stops = self._has_stops, False
            try:
                member = self._membership()
                if self._storage:
                    states = await trio.to_thread.run_sync(read_states_untrusted, self._storage)
                    if states.stopping or had_stops:
                        await self._apply_stops(member, states)
            except RefusedError:
                self._has_stops |= had_stops
            except NetagentError as error:
                self._has_stops = True
                _limited.warning("stops", f"cannot see which containers Podman is stopping: {error}")
            await trio.sleep_until(read_at + STOPS_APART_S)

    async def _apply_stops(self, member: ClusterAccess, states: ContainerStates) -> None:
        self._has_stops |= bool(states.stopping)
        # Many may stop together, and each change waits for the disk.
        async with trio.open_nursery() as nursery:
            for container_id, rows in _by_container(member.live.rows.values()).items():
                one = self._followed.get(container_id)
                is_stopping = None if one is None else _is_stopping(container_id, one, states)
                for row in rows:
                    if is_stopping and row.drain is None:
                        nursery.start_soon(_begin_drain, member, row)
                    elif is_stopping is False and row.drain is not None:
                        nursery.start_soon(_end_drain, member, row)
                    self._has_stops |= row.drain is not None

    # -- asking Podman ---------------------------------------------------------------------------------------

    def _due(self) -> dict[str, tuple[int, int]]:
        """Return the containers about which to ask now, with the namespace of each, and mark them as asked."""
        now = trio.current_time()
        for one in self._followed.values():
            folder = one.container.folder if one.container and one.container.pod else ""
            if folder and (now_changed_at := changed_at(folder)) != one.folder_changed_at:
                one.folder_changed_at, one.ask_at = now_changed_at, now
        due = [key for key, one in self._followed.items() if one.ask_at <= now][:MAX_AT_ONCE]
        for container_id in due:
            self._followed[container_id].ask_at = now + ASK_AGAIN_S
        return {container_id: self._followed[container_id].namespace for container_id in due}

    async def _ask(self, member: ClusterAccess, due: Mapping[str, tuple[int, int]]) -> None:
        """Ask about those that are due. podman may wait for a lock, so this runs concurrently with the checks."""
        try:
            found = await self._podman.containers(list(due))
            for container_id, namespace in due.items():
                container = found.get(container_id)
                members = await self._members(container) if container and container.pod else ()
                one = self._followed.get(container_id)
                # A container that was restarted meanwhile is due again: this answer is about its previous run.
                if one is not None and one.namespace == namespace:
                    await self._learn(member, container_id, one, container, members)
        except NetagentError as error:
            _limited.warning("ask", f"cannot ask Podman about its containers: {error}")
        finally:
            self._asking = False

    async def _learn(
        self,
        member: ClusterAccess,
        container_id: str,
        one: WatchedContainer,
        container: PodmanContainer | None,
        members: tuple[PodmanContainer, ...],
    ) -> None:
        rows = _by_container(member.live.rows.values()).get(container_id)
        if rows is None:
            return
        if container is None:
            one.container, one.members, one.is_unknown = None, members, True
            return
        # Before its health gives it names: it may have checks, and gets none before the first success.
        if not container.flaw:
            said = _described(container, rows[0].target.removeprefix(TARGET))
            flaws = tuple(f"container {container.name}: {flaw}" for flaw in said.flaws)
            for flaw in set(flaws).difference(one.label_flaws):
                logger.warning("%s", flaw)
            one.label_flaws = flaws
            if not all([await _apply_labels(member, row, said) for row in rows]):
                return  # it is still due, and asked again
        one.container, one.members, one.is_unknown = container, members, False
        # It may be stopping since before it was read, or run again in the same namespace.
        self._storage, self._has_stops = container.storage or self._storage, True
        self._stops_wanted.set()
        trouble = "" if any(row.publish for row in rows) else _unpublished(container, len(rows))
        if trouble and trouble != one.trouble:
            logger.warning("%s", trouble)
        one.trouble = trouble
        if lives(container.pid, one.namespace):
            one.ask_at = trio.current_time() + RECHECK_S if one.trouble else math.inf
        if (
            container.flaw
        ):  # its labels stay as last published; the longer it fails, the less often podman runs
            _limited.warning(f"{container_id} image", container.flaw)
            one.ask_at = trio.current_time() + min(ASK_AGAIN_S * 2**one.flaws, RECHECK_S)
            one.flaws = min(one.flaws + 1, 8)
            return
        one.flaws = 0

    async def _members(self, infra: PodmanContainer) -> tuple[PodmanContainer, ...]:
        ids = [one for one in await self._podman.members(infra.pod) if one != infra.container_id]
        return tuple((await self._podman.containers(ids)).values()) if ids else ()


def _by_container(rows: Iterable[LocalEndpointRow]) -> dict[str, list[LocalEndpointRow]]:
    """Return Podman's published endpoints by container id."""
    found: dict[str, list[LocalEndpointRow]] = {}
    for row in rows:
        container_id = container_of(row.origin)
        if container_id and row.is_published:
            found.setdefault(container_id, []).append(row)
    return found


def _is_stopping(container_id: str, one: WatchedContainer, states: ContainerStates) -> bool | None:
    """True if Podman is stopping the container, or all of its pod that still run; None: it has ended, or has not
    started yet."""
    if container_id in states.stopping:
        return True
    if container_id not in states.running:
        return None
    members = {who.container_id for who in one.members}
    if not members:
        return False
    if members & states.running:
        return False
    return True if members & states.stopping else None


def _keep_nameserver(one: WatchedContainer, now: float) -> None:
    """Ensure that its resolv.conf names a server, once Podman has finished writing it.

    For a container in two netagent networks, `podman network disconnect` removes the one server that both have.
    """
    path = one.container.resolv_conf if one.container else ""
    written_at = changed_at(path) if path else 0
    known_at, since = one.resolv_conf
    if written_at != known_at:
        one.resolv_conf = written_at, now
    elif written_at and now - since >= QUIET_S:
        ensure_nameserver(path, RESOLVER_ADDRESS)
        one.resolv_conf = changed_at(path), math.inf


async def _wait_other_rows(live: StateStore, rows: Mapping[EndpointId, LocalEndpointRow]) -> None:
    while live.rows is rows:
        await live.wait_newer(live.revision)


async def _withdraw(member: ClusterAccess, row: LocalEndpointRow) -> None:
    """Withdraw by endpoint, not by origin: Podman may be setting up the same container again."""
    try:
        await member.endpoints.remove(row, "it has ended without a teardown by Podman")
    except NetagentError as error:
        _limited.warning(row.endpoint_id, f"cannot yet withdraw {row.name}, which has ended: {error}")


async def _begin_drain(member: ClusterAccess, row: LocalEndpointRow) -> None:
    try:
        await member.endpoints.drains.begin(row.endpoint_id, STOP)
    except (NetagentError, OSError) as error:
        _limited.warning(row.endpoint_id, f"cannot withdraw the names of {row.name}, which stops: {error}")


async def _end_drain(member: ClusterAccess, row: LocalEndpointRow) -> None:
    try:
        await member.endpoints.drains.end(row.endpoint_id, by=STOP)
    except (NetagentError, OSError) as error:
        _limited.warning(row.endpoint_id, f"cannot publish the names of {row.name} yet: {error}")


async def _publish_health(
    member: ClusterAccess, rows: Iterable[LocalEndpointRow], health: Health | None
) -> None:
    for row in rows:
        if health is None or row.health is health:
            continue
        try:
            await member.endpoints.change(row.endpoint_id, health=health)
        except NetagentError as error:
            _limited.warning(row.endpoint_id, f"cannot publish the health of {row.name} yet: {error}")


def _described(container: PodmanContainer, name: str) -> labels.Described:
    """Read the labels of a container, which has this name. Those of a pod are the labels of its infra container."""
    said = labels.described(container.labels, name, container_id=container.container_id)
    if not container.pod:
        return said
    checks = tuple(one for one in said.checks if not isinstance(one.subject, ExecCheck))
    flaws = [
        f"the check {subject_text(one.subject)} is ignored: a pod is no container that could run a command; use a "
        "check by http: or tcp:"
        for one in said.checks
        if one not in checks
    ]
    return dataclasses.replace(said, checks=checks, flaws=(*said.flaws, *flaws))


async def _apply_labels(member: ClusterAccess, row: LocalEndpointRow, said: labels.Described) -> bool:
    """Apply the labels to a row; False if that failed."""
    try:
        await member.endpoints.change(
            row.endpoint_id,
            service=said.service or nearest_name(row.target.removeprefix(TARGET)),
            ports=said.ports,
            weight=said.weight,
            labels=said.labels,
            group=said.group,
            checks=said.checks,
            keeps_names=said.keeps_names,
        )
    except NetagentError as error:
        _limited.warning(row.endpoint_id, f"cannot apply the labels of {row.name} yet: {error}")
        return False
    return True


def _unpublished(container: PodmanContainer, ours: int) -> str:
    """Return a sentence if it publishes ports, but all its networks are `ours` and none forwards them."""
    if not container.published or len(container.networks) > ours:
        return ""
    return (
        f"container {container.name} publishes {', '.join(container.published)}, but all its networks are internal;"
        f" connect it to another one: `podman network connect podman {container.name}`"
    )
