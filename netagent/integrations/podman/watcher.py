"""What Podman doesn't tell its plug-in: labels, health, and the end of a container whose cleanup did not run.

By level, over all endpoints whose origin is Podman, twice a second and whenever they change. In the ordinary case a
look at a container is three stat(2), of its first process, its resolv.conf and its health log: 200 cost 2 ms.

The end of a container is known by its namespace, never guessed. Podman keeps the namespace as a file under
/run/netns, so that it outlives its processes; and conmon, which would have the container torn down, may be killed
with it. So when the first process is gone, all of /proc is read: while any process lives in the namespace, or has the
container's id among its arguments (conmon, or a `podman container cleanup` that is about to start it again), the
endpoint stays. When there is nobody, and a little later still nobody, it is withdrawn. Podman itself goes on
believing that the container runs until somebody tries to use it (seen with 5.4).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import trio

from netagent.endpoints.resolv_conf import RESOLVER_ADDRESS
from netagent.errors import NetagentError, RefusedError
from netagent.integrations import labels
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.integrations.podman.command import MAX_AT_ONCE, Podman
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
from netagent.journal.rows import LocalEndpointRow, Stage
from netagent.log import Limited
from netagent.model.ids import EndpointId, nearest_name
from netagent.model.records import Health
from netagent.registry.state_store import StateStore

LOOK_S = 0.5
"""Three looks find a container that is gone, and one a change of health: both within the 2 s that are promised."""
QUIET_S = 0.4
"""So long must nobody be found in a namespace, or a resolv.conf not be written: between two of Podman's own steps
there may be nobody, or half a file, for an instant."""
ASK_AGAIN_S = 2.0
"""Until Podman is asked once more about a container that has no process yet, or another than it had."""
NOT_READ_S = 2.0
"""So long does a container have no names because it may have a health check, while Podman does not answer."""
STARTING_S = 10.0
"""A container has a process within this time of its `setup`, or its start has failed."""
UNSTARTED_S = 60.0
"""The same for one of which Podman says that nothing runs: it may be filling a volume first. Later it has ended, and
whoever should have torn it down as well."""
RECHECK_S = 30.0
"""The same for one with a trouble, which a user may have cured."""

logger = logging.getLogger("netagent.podman")
_limited = Limited(logger)


@dataclass(slots=True)
class WatchedContainer:
    """What is known of a container with an endpoint of ours."""

    namespace: tuple[int, int]
    """Device and inode: a container that Podman starts again gets another one, and all is learnt anew."""
    since: float
    """When it was first seen, on trio's clock, as `ask_at`."""
    is_new: bool = False
    """It was without names when it was first seen, because nothing was known of it."""
    container: PodmanContainer | None = None
    """None until Podman was asked."""
    members: tuple[PodmanContainer, ...] = ()
    """Of the pod whose namespace it holds."""
    is_unknown: bool = False
    """Podman, as root runs it without options, knows no such container."""
    ask_at: float = 0.0
    alone_since: float = math.inf
    """Since when nobody is found in the namespace."""
    trouble: str = ""
    flaws: int = 0
    """How many times in a row Podman could not tell its labels from its image's."""
    folder_changed_at: int = 0
    """Of `container.folder`, when that was last looked at for members."""
    resolv_conf: tuple[int, float] = (0, 0.0)
    """When its resolv.conf was written last, and since when that is known; inf: it was found right."""
    has_log: bool = False
    """A log of its health was read."""
    health_read: dict[str, tuple[int, Health]] = field(default_factory=dict)
    """By path of the log: when it was written, and what it said."""

    def is_absent(self, now: float) -> bool:
        """True when its first process has ended, or Podman does not know it; it may be a Podman with another storage
        that starts it just now."""
        if self.is_unknown:
            return now > self.since + STARTING_S
        if self.container is None:
            return False
        if self.container.pid <= 0:
            return now > self.since + UNSTARTED_S
        return not lives(self.container.pid, self.namespace)


class PodmanWatcher:
    """`run` until cancelled; `troubles` is what users asked of Podman in vain."""

    def __init__(self, podman: Podman, membership: Membership) -> None:
        self._podman = podman
        self._membership = membership
        self._followed: dict[str, WatchedContainer] = {}
        self._asking = False

    @property
    def troubles(self) -> tuple[str, ...]:
        """One sentence for each container that publishes ports which nobody forwards."""
        return tuple(sorted(one.trouble for one in self._followed.values() if one.trouble))

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
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

    # -- looking ---------------------------------------------------------------------------------------------

    async def look(self, member: ClusterAccess) -> None:
        """Once at all of them: who is gone, who is well."""
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
                await _tell_health(member, mine, self._health(one, now))
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
        namespace = (row.netns_dev, row.netns_inode)
        one = self._followed.get(container_id)
        if one is None or one.namespace != namespace:
            is_new = row.health is Health.STARTING
            one = WatchedContainer(namespace=namespace, since=trio.current_time(), is_new=is_new)
            self._followed[container_id] = one
        return one

    def _health(self, one: WatchedContainer, now: float) -> Health | None:
        """None: nothing is known that is not told already."""
        if one.container is None:
            # It stays as it was: of one that the agent has found at its start its row knows more.
            is_asked = one.is_unknown or now > one.since + NOT_READ_S
            return Health.UNKNOWN if is_asked and one.is_new else None
        checked = [who for who in (one.container, *one.members) if who.health_logs]
        logs = [path for who in checked for path in who.health_logs]
        for path in one.health_read.keys() - set(logs):
            del one.health_read[path]
        # Podman writes the log when it starts the container; one that never comes keeps nobody without names.
        one.has_log |= bool(one.health_read)
        is_early = not one.has_log and now < one.since + STARTING_S
        before = Health.STARTING if is_early else Health.UNKNOWN
        health = together(read_health(one.health_read, path, before) for path in logs)
        if health is Health.STARTING and not (has_timers() and all(o.is_checked_by_itself for o in checked)):
            return Health.UNKNOWN  # nothing runs the check: it would stay so for ever
        return health

    # -- asking Podman ---------------------------------------------------------------------------------------

    def _due(self) -> dict[str, tuple[int, int]]:
        """Those to be asked about now, with the namespace of each; it is taken that they are."""
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
        """About those that are due. They may wait for a lock of Podman's, so this runs beside the looks."""
        try:
            found = await self._podman.containers(list(due))
            for container_id, namespace in due.items():
                container = found.get(container_id)
                members = await self._members(container) if container and container.pod else ()
                one = self._followed.get(container_id)
                # A container that was started again meanwhile is due itself: this is about its life before.
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
        one.container, one.members, one.is_unknown = container, members, container is None
        if container is None:
            return
        trouble = "" if any(row.publish for row in rows) else _unpublished(container, len(rows))
        if trouble and trouble != one.trouble:
            logger.warning("%s", trouble)
        one.trouble = trouble
        if lives(container.pid, one.namespace):
            one.ask_at = trio.current_time() + RECHECK_S if one.trouble else math.inf
        if (
            container.flaw
        ):  # its labels stay as they were told last; the longer it lasts, the less often Podman runs
            _limited.warning(f"{container_id} image", container.flaw)
            one.ask_at = trio.current_time() + min(ASK_AGAIN_S * 2**one.flaws, RECHECK_S)
            one.flaws = min(one.flaws + 1, 8)
            return
        one.flaws = 0
        for row in rows:
            await _tell_labels(member, row, container)

    async def _members(self, infra: PodmanContainer) -> tuple[PodmanContainer, ...]:
        ids = [one for one in await self._podman.members(infra.pod) if one != infra.container_id]
        return tuple((await self._podman.containers(ids)).values()) if ids else ()


def _by_container(rows: Iterable[LocalEndpointRow]) -> dict[str, list[LocalEndpointRow]]:
    """Podman's endpoints that are whole, by container id."""
    found: dict[str, list[LocalEndpointRow]] = {}
    for row in rows:
        container_id = container_of(row.origin)
        if container_id and row.stage is Stage.PUBLISHED:
            found.setdefault(container_id, []).append(row)
    return found


def _keep_nameserver(one: WatchedContainer, now: float) -> None:
    """See that its resolv.conf names a server, once Podman has done with writing it.

    Of a container in two of our networks, `podman network disconnect` takes the one server away that both have.
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
    """By endpoint, not by origin: Podman may be setting the same container up again."""
    try:
        await member.endpoints.remove(row)
    except NetagentError as error:
        _limited.warning(row.origin, f"cannot withdraw {row.name}, which has ended, yet: {error}")
    else:
        logger.info("withdrew %s (%s): it has ended, and Podman did not say so", row.name, row.target)


async def _tell_health(
    member: ClusterAccess, rows: Iterable[LocalEndpointRow], health: Health | None
) -> None:
    for row in rows:
        if health is None or row.health is health:
            continue
        try:
            await member.endpoints.change(row.endpoint_id, health=health)
        except NetagentError as error:
            _limited.warning(row.origin, f"cannot tell the health of {row.name} yet: {error}")
        else:
            logger.info("%s (%s) is %s", row.name, row.target, health.value)


async def _tell_labels(member: ClusterAccess, row: LocalEndpointRow, container: PodmanContainer) -> None:
    said = labels.described(
        container.labels, row.target.removeprefix(TARGET), container_id=container.container_id
    )
    for flaw in said.flaws:
        _limited.warning(f"{container.container_id} {flaw}", f"container {container.name}: {flaw}")
    try:
        await member.endpoints.change(
            row.endpoint_id,
            service=said.service or nearest_name(row.target.removeprefix(TARGET)),
            ports=said.ports,
            labels=said.labels,
        )
    except NetagentError as error:
        _limited.warning(row.origin, f"cannot follow the labels of {row.name} yet: {error}")


def _unpublished(container: PodmanContainer, ours: int) -> str:
    """What is wrong when it publishes ports, and all its networks are `ours`, of which none leads to it."""
    if not container.published or len(container.networks) > ours:
        return ""
    return (
        f"container {container.name} publishes {', '.join(container.published)}, and is in networks only that nobody"
        f" outside may reach; give it another as well: `podman network connect podman {container.name}`"
    )
