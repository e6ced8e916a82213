"""Watcher of names, health and ends of containers: events of Docker's API trigger, the state read afterwards counts.

An event means no more than "inspect this container". The inspected state is applied as a whole, so a lost, repeated
or late event costs only time, and after each reconnect the watcher inspects all containers.

    Docker sends a container's stop signal  its names lead away at once, until it has ended (netagent.endpoints.drain)
    the first program of a container ends   its names go at once, whether or not dockerd runs (pidfd)
    Docker does not describe a container    no names at first, as it may have a health check; later it gets them
    dockerd is down, no pidfd               a namespace without a process is a container that has ended
    Docker has removed an endpoint          detach ours (compared after each end of a container, and at connect)

An endpoint that is reserved but not in its container is left to the deadline of TwoPhaseAttach: Docker lists it a
moment after its call to the plug-in.

Docker does not say whether a signal is from `docker stop`, which kills the container when its stop timeout is over,
or from `docker kill`, which leaves it alone. So a container that still runs some time after that timeout was not
stopped, and gets its names back.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from netagent.errors import NetagentError, RefusedError
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.integrations.docker import container as facts
from netagent.integrations.docker.container import DockerContainer, DockerNetwork, Interface
from netagent.integrations.docker.engine import Engine, EngineError
from netagent.integrations.docker.netns_waiter import AwaitedNamespace, NetnsWaiter
from netagent.integrations.docker.protocol import origin_of
from netagent.integrations.labels import has_ours, without_choices, without_image
from netagent.journal.rows import LocalEndpointRow
from netagent.log import Limited
from netagent.model.ids import EndpointId
from netagent.model.records import STOP, Health
from netagent.model.sandbox import NetnsIdentity
from netagent.periodic_task import PeriodicTask

RECONNECT_S = 0.5
LOOK_S = 0.5
"""Seconds between searches for processes while Docker is down, and between checks for a change of the cluster."""
NOT_READ_S = 10.0
"""How long a container gets no names, because it may have a health check, while Docker does not describe it: Docker
answers once it has started the container, which takes seconds if volumes are slow."""
SWEEP_APART_S = 0.3
"""If two hundred containers end together, a few sweeps cover them, not two hundred."""
STOPPED_S = 30.0
"""A container that runs for this long after its stop timeout was not stopped: its program has ignored the signal, or
has taken it for something else. An agent that is started while a container stops counts from its start."""
INSPECTORS = 16
"""Containers inspected concurrently. Inspecting one that is being started waits for the start."""
MAX_CONTAINERS = 10_000
"""Bound of containers to be examined, and known; beyond it: further ones keep the names they started with."""
MAX_IMAGES = 256
"""Images whose labels are cached."""
ORIGIN_PREFIX = "docker:"
_KILL = str(int(signal.SIGKILL))
_SIGNAL = re.compile(r"(?:SIG)?([A-Z0-9]+?)([+-][0-9]{1,2})?")
_FILTERS = {
    "type": ["container", "network"],
    "event": [
        "create",
        "start",
        "rename",
        "health_status",
        "kill",
        "die",
        "destroy",
        "connect",
        "disconnect",
    ],
}

logger = logging.getLogger("netagent.integrations.docker")
_limited = Limited(logger)
_Life = tuple[EndpointId, NetnsIdentity | None]
"""An endpoint in one namespace: after a restart, in the next one, Docker may report other facts."""


class DockerWatcher:
    """Applies the state of Docker's containers to the endpoints' rows."""

    def __init__(
        self, engine: Engine, membership: Membership, arrivals: NetnsWaiter, driver: str, labels: str
    ) -> None:
        """`driver`: Docker's name of our plug-in. `labels`: which labels count, `container`, `all` or `off`."""
        self._labels = labels
        self._engine = engine
        self._membership = membership
        self._arrivals = arrivals
        self._driver = driver
        self._networks: dict[str, DockerNetwork] = {}
        self._containers: dict[str, DockerContainer] = {}
        self._image_labels: dict[str, Mapping[str, str]] = {}
        """netagent's labels of images, by the image's id: the image with an id never changes."""
        self._dirty: dict[str, None] = {}
        self._in_work: set[str] = set()
        """Containers being inspected: one request per container, or an older answer could come after a newer one."""
        self._wake = trio.Event()
        self._look_wanted = trio.Event()
        self._sweep_wanted = trio.Event()
        self._watched: dict[NetnsIdentity, int] = {}
        """Namespace -> the process that is watched for it."""
        self._unread_since: dict[_Life, float] = {}
        """Published endpoints without names that Docker has not described yet, since when, on trio's clock."""
        self._stop_since: dict[_Life, float] = {}
        self._draining: set[_Life] = set()
        """Endpoints whose container was asked to stop: when it was asked last, on trio's clock."""
        self._lives_read: set[_Life] = set()
        """Published endpoints that Docker has described."""
        self._nursery: trio.Nursery
        self.networks_changed = trio.Event()
        """Set, and replaced, when Docker's networks may have changed."""
        self.connected = False
        self.troubles: dict[str, str] = {}
        """Sentences for the operator, by subject, one per line."""

    # -- for the others ------------------------------------------------------------------------------------------

    def known(self, container_id: str, name: str) -> DockerContainer | None:
        """Return what is known of a container, by id or else by name."""
        found = self._containers.get(container_id)
        if found is None and not container_id:
            found = next((one for one in self._containers.values() if one.name == name), None)
        return found

    def look_at(self, container_id: str) -> None:
        """Inspect the container again."""
        if len(self._dirty) < MAX_CONTAINERS:
            self._dirty[container_id] = None
        self._wake_inspectors()

    def _wake_inspectors(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for _ in range(INSPECTORS):
                self._nursery.start_soon(self._inspect_dirty)
            for task in (
                self._look_when_wanted,
                self._sweep_when_wanted,
                self._look_for_processes,
                self._look_for_unread,
                self._look_for_unstopped,
                self._notice_membership,
            ):
                self._nursery.start_soon(task)
            while True:
                try:
                    await self._follow()
                except NetagentError as error:
                    self.troubles["docker"] = f"changes of Docker's containers are not applied: {error}"
                    _limited.warning("docker", self.troubles["docker"])
                self.connected = False
                await trio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        async with self._engine.events(_FILTERS) as events:
            self.connected = True
            self.troubles.pop("docker", None)
            self._look_wanted.set()
            while True:
                for event in await events.read():
                    self._note_untrusted(event)

    def _note_untrusted(self, event: Mapping[str, Any]) -> None:
        kind, action, actor = event.get("Type"), event.get("Action"), event.get("Actor")
        if not isinstance(action, str) or not isinstance(actor, dict):
            return
        attributes = actor.get("Attributes")
        if kind == "container":
            about = actor.get("ID")
        else:
            about = attributes.get("container") if isinstance(attributes, dict) else None
        if action == "kill":
            number = attributes.get("signal") if isinstance(attributes, dict) else None
            if facts.is_id(about) and isinstance(number, str):
                self._note_signal(about, number)
        elif facts.is_id(about):
            self.look_at(about)
        if action in {"die", "destroy", "disconnect"}:
            self._sweep_wanted.set()
        if kind == "network" and action in {"create", "destroy"}:
            self._look_wanted.set()

    async def _look_when_wanted(self) -> None:
        """List containers one request at a time: an older list must not come after a newer one."""
        while True:
            await self._look_wanted.wait()
            self._look_wanted = trio.Event()
            try:
                await self._look_at_all()
            except NetagentError as error:
                _limited.warning("list", f"cannot list Docker's containers: {error}")
                await trio.sleep(RECONNECT_S)
                if self.connected:
                    self._look_wanted.set()

    async def _look_at_all(self) -> None:
        """Read the networks, and inspect every container that is in one of ours."""
        filters = json.dumps({"driver": [self._driver]})
        listed = facts.networks_untrusted(await self._engine.get("/networks", filters=filters))
        # Read the networks before the list of containers: a later container is inspected because of its events, and
        # its network must be known then.
        self._networks = {network.docker_id: network for network in listed}
        containers = await self._engine.get("/containers/json", all="1")
        in_networks = facts.container_ids_untrusted(containers)
        names = {name for network in listed for name in (network.name, network.docker_id)}
        ours = {container_id for container_id, networks in in_networks if names & set(networks)}
        self._containers = {known: one for known, one in self._containers.items() if known in ours}
        self.troubles = {about: text for about, text in self.troubles.items() if about in ours}
        for container_id in ours:
            self.look_at(container_id)
        self._sweep_wanted.set()
        self.networks_changed.set()
        self.networks_changed = trio.Event()

    async def _notice_membership(self) -> None:
        """Inspect all containers when the host joins a cluster: it must learn of those that already run."""
        task = PeriodicTask(LOOK_S)
        last: ClusterAccess | None = None
        while True:
            member = self._member()
            if member is not last and self.connected:
                last = member
                self._look_wanted.set()
            await task.wait()

    # -- one container -------------------------------------------------------------------------------------------

    async def _inspect_dirty(self) -> None:
        while True:
            container_id = next((one for one in self._dirty if one not in self._in_work), None)
            if container_id is None:
                await self._wake.wait()
                continue
            del self._dirty[container_id]
            self._in_work.add(container_id)
            try:
                await self._inspect(container_id)
            except (NetagentError, OSError) as error:
                _limited.warning(
                    container_id, f"cannot inspect the container {container_id[:12]} yet: {error}"
                )
                await trio.sleep(RECONNECT_S)
                if self.connected:
                    self.look_at(container_id)
            finally:
                self._in_work.discard(container_id)
                if container_id in self._dirty:
                    self._wake_inspectors()

    async def _inspect(self, container_id: str) -> None:
        try:
            container = await self._read(container_id)
        except EngineError as error:
            if error.status != 404:
                raise
            self._containers.pop(container_id, None)
            self.troubles.pop(container_id, None)
            self._sweep_wanted.set()
            return
        await self._apply(container)

    async def _read(self, container_id: str) -> DockerContainer:
        """Inspect the container, without labels of its image that choose names. Raises EngineError, InputError."""
        container = facts.container_untrusted(
            await self._engine.get(f"/containers/{quote(container_id)}/json")
        )
        if self._labels == "off":
            return dataclasses.replace(container, labels=without_choices(container.labels))
        if self._labels == "all" or not has_ours(container.labels):
            return container
        image = self._image_labels.get(container.image)
        if image is None:
            image = await self._read_image(container.image)
            if len(self._image_labels) >= MAX_IMAGES:
                self._image_labels.clear()
            self._image_labels[container.image] = image
        return dataclasses.replace(container, labels=without_image(container.labels, image))

    async def _read_image(self, image: str) -> Mapping[str, str]:
        try:
            read = facts.image_labels_untrusted(await self._engine.get(f"/images/{quote(image)}/json"))
        except EngineError as error:
            if error.status != 404:
                raise
            return {}  # Docker removes a container's image only with force; then its labels are unknown
        return {key: value for key, value in read.items() if has_ours([key])}

    async def _apply(self, container: DockerContainer) -> None:
        places = [(n, one) for n in self._networks.values() if (one := container.interface_in(n)) is not None]
        if not places:
            self._containers.pop(container.container_id, None)
            self.troubles.pop(container.container_id, None)
            return
        if len(self._containers) < MAX_CONTAINERS:
            self._containers[container.container_id] = container
        member = self._member()
        said = [] if member is None else await self._apply_to_rows(member, container, places)
        self.troubles.pop(container.container_id, None)
        if said:
            self.troubles[container.container_id] = "\n".join(dict.fromkeys(said))

    async def _apply_to_rows(
        self, member: ClusterAccess, container: DockerContainer, places: list[tuple[DockerNetwork, Interface]]
    ) -> list[str]:
        """Apply the inspected state to the container's rows; return one sentence for each invalid label."""
        said: list[str] = []
        for network, interface in places:
            fields, flaws = facts.fields_of(container, interface)
            said += flaws
            row = member.live.rows.with_origin(origin_of(interface.endpoint))
            if not container.running or not interface.endpoint:
                continue
            if row is None:
                said.append(_unknown(container, interface))
            elif row.is_published:
                # Mark it as read before changing the row: changes that _show_unread has begun come first, and it
                # begins no further ones.
                self._lives_read.add(_life_of(row))
                try:
                    await member.endpoints.change(row.endpoint_id, **facts.as_change(fields))
                except (NetagentError, OSError):
                    self._lives_read.discard(_life_of(row))
                    raise
                self._watch(container, row)
            elif container.sandbox_key and not self._arrivals.is_expected(interface.endpoint):
                # The agent was restarted after Join.
                self._arrivals.expect(
                    AwaitedNamespace(
                        endpoint=interface.endpoint,
                        docker_network=network.docker_id,
                        sandbox_key=container.sandbox_key,
                    )
                )
        return said

    async def _look_for_unread(self) -> None:
        """Give unread containers their names after a while: if Docker's API fails, its plug-in calls may still work,
        and most containers have no health check."""
        task = PeriodicTask(LOOK_S)
        while True:
            await task.wait()
            now = trio.current_time()
            rows = {_life_of(row): row for row in self._rows()}
            self._lives_read &= rows.keys()
            unread = {life for life, row in rows.items() if row.health is Health.STARTING} - self._lives_read
            self._unread_since = {life: self._unread_since.get(life, now) for life in unread}
            for life, since in self._unread_since.items():
                if now > since + NOT_READ_S:
                    await self._show_unread(rows[life])

    async def _show_unread(self, row: LocalEndpointRow) -> None:
        member = self._member()
        if member is None or _life_of(row) in self._lives_read:  # it was read while another one was handled
            return
        try:
            await member.endpoints.change(row.endpoint_id, health=Health.UNKNOWN)
        except (NetagentError, OSError) as error:
            _limited.warning(row.endpoint_id, f"cannot publish the names of {row.name} yet: {error}")
        else:
            logger.warning("published the names of %s, although Docker does not report its health", row.name)

    # -- the stop of containers ------------------------------------------------------------------------------------

    def _note_signal(self, container_id: str, number: str) -> None:
        """Drain the container's endpoints, if Docker has sent it its stop signal. SIGKILL is its end anyway."""
        container, member = self._containers.get(container_id), self._member()
        if (
            container is None
            or member is None
            or number != str(_number_of(container.stop_signal))
            or number == _KILL
        ):
            return
        for interface in container.interfaces:
            row = member.live.rows.with_origin(origin_of(interface.endpoint))
            if row is not None and row.is_published:
                self._stop_since[_life_of(row)] = trio.current_time()
                # One task, however many signals come before its change is on disk.
                if row.drain is None and _life_of(row) not in self._draining:
                    self._draining.add(_life_of(row))
                    self._nursery.start_soon(self._drain, member, row)

    async def _drain(self, member: ClusterAccess, row: LocalEndpointRow) -> None:
        try:
            await member.endpoints.drains.begin(row.endpoint_id, STOP)
        except (NetagentError, OSError) as error:
            _limited.warning(
                row.endpoint_id, f"cannot withdraw the names of {row.name}, which stops: {error}"
            )
        finally:
            self._draining.discard(_life_of(row))

    async def _look_for_unstopped(self) -> None:
        """Give names back to containers that go on although they were asked to stop."""
        task = PeriodicTask(LOOK_S)
        while True:
            await task.wait()
            member, now = self._member(), trio.current_time()
            stopping = [row for row in self._rows() if row.drain is not None and row.drain.by == STOP]
            self._stop_since = {_life_of(row): self._stop_since.get(_life_of(row), now) for row in stopping}
            if member is None or not self.connected:
                continue
            late = [row for row in stopping if now > self._stop_since[_life_of(row)] + STOPPED_S]
            containers = self._by_endpoint() if late else {}
            for row in late:
                container = containers.get(row.origin)
                since = self._stop_since[_life_of(row)]
                if container is not None and now > since + container.stop_timeout_s + STOPPED_S:
                    await self._end_drain(member, row)

    async def _end_drain(self, member: ClusterAccess, row: LocalEndpointRow) -> None:
        try:
            await member.endpoints.drains.end(row.endpoint_id, by=STOP)
        except (NetagentError, OSError) as error:
            _limited.warning(row.endpoint_id, f"cannot publish the names of {row.name} yet: {error}")
        else:
            logger.warning("published the names of %s again: it was asked to stop, and goes on", row.name)

    def _by_endpoint(self) -> dict[str | None, DockerContainer]:
        """Return the containers by the origins of their endpoints."""
        return {
            origin_of(interface.endpoint): container
            for container in self._containers.values()
            for interface in container.interfaces
        }

    # -- the end of containers -------------------------------------------------------------------------------------

    def _watch(self, container: DockerContainer, row: LocalEndpointRow) -> None:
        identity = row.netns_identity
        if container.pid and identity and self._watched.get(identity) != container.pid:
            self._watched[identity] = container.pid
            self._nursery.start_soon(self._wait_for_end, container.pid, identity)

    async def _wait_for_end(self, pid: int, identity: NetnsIdentity) -> None:
        """Wait until the process ends, then withdraw the names: no process is left to answer for them."""
        try:
            seen = await _process_ended(pid, identity)
        finally:
            if self._watched.get(identity) == pid:
                del self._watched[identity]
        if seen:
            await self._take_down(identity, "its first process has ended")
        elif identity not in await _namespaces_in_use():
            # Docker still reports a process that is gone: it is handling the end of the container.
            await self._take_down(identity, "no process is left in it")

    async def _look_for_processes(self) -> None:
        """While Docker is down, find containers whose end no event reports."""
        task = PeriodicTask(LOOK_S)
        while True:
            await task.wait()
            unwatched = {row.netns.identity for row in self._rows() if row.netns} - self._watched.keys()
            if self.connected or not unwatched:
                continue
            for identity in unwatched - await _namespaces_in_use():
                await self._take_down(identity, "no process is left in it")

    async def _take_down(self, identity: NetnsIdentity, why: str) -> None:
        member = self._member()
        for origin, row in self._by_origin().items():
            if member is not None and row.netns_identity == identity:
                logger.info("withdrawing %s (%s): %s", row.name, row.target, why)
                try:
                    await member.endpoints.staged.unbind(origin)
                except (NetagentError, OSError) as error:
                    _limited.warning(origin, f"cannot withdraw {row.name} yet: {error}")

    async def _sweep_when_wanted(self) -> None:
        while True:
            await self._sweep_wanted.wait()
            self._sweep_wanted = trio.Event()
            try:
                await self._sweep()
            except (NetagentError, OSError) as error:
                _limited.warning("sweep", f"cannot compare endpoints with Docker's: {error}")
                if self.connected:
                    self._sweep_wanted.set()
            await trio.sleep(SWEEP_APART_S)

    async def _sweep(self) -> None:
        """Detach endpoints that Docker has removed."""
        rows = (
            self._by_origin()
        )  # before asking Docker: an older answer must not decide about later endpoints
        if not rows:
            return
        filters = json.dumps({"driver": [self._driver]})
        present: set[str] = set()
        for network in facts.networks_untrusted(await self._engine.get("/networks", filters=filters)):
            present |= (await self.endpoints_of(network.docker_id)).endpoints.keys()
        member = self._member()
        gone = [origin for origin in rows if origin.removeprefix(ORIGIN_PREFIX) not in present]
        for origin in gone:
            if member is not None:
                await member.endpoints.detach_origin(origin)

    async def endpoints_of(self, docker_network: str) -> DockerNetwork:
        """Return one network with its endpoints; an empty one if it is gone. Raises EngineError, InputError."""
        try:
            return facts.network_untrusted(await self._engine.get(f"/networks/{quote(docker_network)}"))
        except EngineError as error:
            if error.status != 404:
                raise
            return DockerNetwork(docker_id=docker_network, name="", driver="")

    # -- parts ---------------------------------------------------------------------------------------------------

    def _member(self) -> ClusterAccess | None:
        try:
            return self._membership()
        except RefusedError:
            return None

    def _rows(self) -> Iterable[LocalEndpointRow]:
        return self._by_origin().values()

    def _by_origin(self) -> dict[str, LocalEndpointRow]:
        """Return Docker's endpoints that are in their containers."""
        member = self._member()
        rows = [] if member is None else list(member.live.rows.values())
        return {
            row.origin: row
            for row in rows
            if row.origin is not None and row.origin.startswith(ORIGIN_PREFIX) and row.is_published
        }


def _life_of(row: LocalEndpointRow) -> _Life:
    return row.endpoint_id, row.netns_identity


def _unknown(container: DockerContainer, interface: Interface) -> str:
    where = f"container {container.name} is in Docker's network {interface.network}"
    return f"{where}, but the agent has no record of it; `docker restart {container.name}` brings it back"


def _number_of(text: str) -> int:
    """Return the number of a signal as the user wrote it: `SIGTERM`, `TERM`, `15`, `RTMIN+3`, `RTMAX-2`; SIGTERM for
    none. A text that is no signal here is none that Docker sends: -1."""
    if text.isascii() and text.isdigit() and len(text) <= 3:
        return int(text)
    match = _SIGNAL.fullmatch(text.upper() or "SIGTERM")
    known = match and signal.Signals.__members__.get(f"SIG{match[1]}")
    return known + int(match[2] or 0) if match and known else -1


async def _process_ended(pid: int, identity: NetnsIdentity) -> bool:
    """Wait for the end of the process; False at once if the namespace has no such process."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _namespace_of(str(pid)) != identity:
            return False  # the pid belongs to another process by now
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
    return True


def _namespace_of(pid: str) -> NetnsIdentity | None:
    try:
        status = Path("/proc", pid, "ns", "net").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def _namespaces_in_use() -> set[NetnsIdentity]:
    """Return the namespaces of all readable processes. In a thread: a host may have ten thousand of them."""
    return await trio.to_thread.run_sync(_read_namespaces_in_use)


def _read_namespaces_in_use() -> set[NetnsIdentity]:
    found = (_namespace_of(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return {identity for identity in found if identity is not None}
