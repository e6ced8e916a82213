"""The Docker integration: the plug-in's socket, the watcher of containers, the mirror of networks, iptables rules.

It runs while the agent runs, in a cluster or not. Without Docker it waits, at the cost of one refused connection
every half second.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection
from functools import partial

import trio

from netagent.config import Config
from netagent.control.server import serve
from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.integrations.cluster_access import Membership
from netagent.integrations.docker import container as facts
from netagent.integrations.docker.container import DockerContainer, DockerNetwork
from netagent.integrations.docker.docker_user_chain import DockerUserChain
from netagent.integrations.docker.engine import Engine
from netagent.integrations.docker.mirror import DockerMirror
from netagent.integrations.docker.netns_waiter import AwaitedNamespace, NetnsWaiter
from netagent.integrations.docker.plugin import Plugin
from netagent.integrations.docker.protocol import origin_of
from netagent.integrations.docker.watcher import DockerWatcher
from netagent.journal.rows import LocalEndpointRow
from netagent.log import Limited
from netagent.model.ids import NetworkId
from netagent.model.records import Health

NAMED_S = 2.0
"""How long an endpoint waits until Docker reports its container's name. Without an answer, for instance while dockerd
restores its containers before it serves its API, the endpoint has its id as name until the name is known."""

logger = logging.getLogger("netagent.integrations.docker")
_limited = Limited(logger)


class DockerIntegration:
    """The integration with the Docker of this host."""

    def __init__(self, config: Config, membership: Membership, listener: socket.socket | None) -> None:
        """`listener`: the plug-in's socket, if the service manager passes it."""
        self._config = config
        self._membership = membership
        self._listener = listener
        # Docker names a plug-in after its socket.
        driver = config.docker_plugin.stem
        self._engine = Engine(config.docker_socket)
        self._arrivals = NetnsWaiter(self._enter, self._note_failure)
        self._plugin = Plugin(membership, self._arrivals)
        self._follower = DockerWatcher(self._engine, membership, self._arrivals, driver, config.docker_labels)
        self._mirror = DockerMirror(self._engine, membership, self._follower, driver)
        self.execute = self._engine.execute
        self._accepts = DockerUserChain(self._ways_out)
        self._asked: dict[str, _NetworkQuestion] = {}
        self._failures: dict[str, str] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `started` when dockerd can call. FailedError or RefusedError without its socket."""
        if self._listener is None:
            _make_folder(self._config)
        async with trio.open_nursery() as nursery:
            for task in (self._arrivals.run, self._follower.run, self._plugin.run, self._accepts.keep):
                nursery.start_soon(task)
            if self._config.docker_mirror:
                nursery.start_soon(self._mirror.run)
            app, never = self._plugin.app(), trio.Event()
            # No group: a caller of the plug-in can do everything to networks that root can.
            serving = partial(serve, listener=self._listener)
            await nursery.start(serving, app, self._config.docker_plugin, "", never)
            task_status.started()

    def troubles(self) -> tuple[str, ...]:
        """Return sentences for the operator, sorted: what failed, and what to do about it."""
        # Drop failures of containers that have ended since.
        self._failures = {
            one: text for one, text in self._failures.items() if self._arrivals.is_expected(one)
        }
        found = (self._follower.troubles, self._mirror.troubles, self._failures)
        texts = (line for by_thing in found for text in by_thing.values() for line in text.splitlines())
        return tuple(sorted({*texts, *self._accepts.troubles()}))

    def _ways_out(self) -> Collection[str]:
        try:
            return self._membership().egress_interfaces()
        except RefusedError:
            return ()

    async def wait_mirrored(self, network_id: NetworkId) -> None:
        """Wait until `docker run --network` finds a new network; the caller sets a timeout."""
        if self._config.docker_mirror and self._follower.connected:
            await self._mirror.wait_mirrored(network_id)

    # -- a container's namespace has appeared ----------------------------------------------------------------------

    async def _enter(self, arrival: AwaitedNamespace) -> None:
        member, origin = self._membership(), origin_of(arrival.endpoint)
        row = member.live.rows.with_origin(origin)
        if row is None or row.is_published:
            return
        name, container_id, network = await self._who(arrival, row)
        known = self._follower.known(container_id, name)
        if known is None:
            known = DockerContainer(container_id=container_id or arrival.endpoint, name=name)
        interface = known.interface_in(network) if network is not None else None
        fields = facts.as_change(facts.fields_of(known, interface)[0])
        # A health that was read before belongs to an earlier start. If nothing was read yet, it may have a check: it
        # gets no names until it has been read, which happens as soon as Docker has started it.
        was_read = self._follower.known(container_id, name) is not None
        fields["health"] = Health.STARTING if known.has_check or not was_read else Health.UNKNOWN
        await member.endpoints.staged.bind(origin, arrival.sandbox_key, behind_runtime=True, **fields)
        self._failures.pop(arrival.endpoint, None)
        # Read it again: what was read before the endpoint was published could not be applied.
        seen = self._follower.known(container_id, name)
        self._follower.look_at(seen.container_id if seen is not None else container_id or known.container_id)

    async def _who(
        self, arrival: AwaitedNamespace, row: LocalEndpointRow
    ) -> tuple[str, str, DockerNetwork | None]:
        """Return the container's name and id ('' when not known yet), and its Docker network.

        Never inspect the container for this: Docker answers only when it has started.
        """
        question = self._asked.get(arrival.docker_network)
        if question is None:
            # A caller that comes while the request is in progress shares its answer: Docker lists an endpoint before
            # it calls Join.
            question = self._asked[arrival.docker_network] = _NetworkQuestion(trio.Event())
            try:
                with trio.move_on_after(NAMED_S):
                    question.answer = await self._follower.endpoints_of(arrival.docker_network)
            except NetagentError as error:
                _limited.warning("names", f"cannot ask Docker for a container's name: {error}")
            finally:
                del self._asked[arrival.docker_network]
                question.answered.set()
        await question.answered.wait()
        network = question.answer
        name, container_id = (
            ("", "") if network is None else network.endpoints.get(arrival.endpoint, ("", ""))
        )
        return name or row.name, container_id, network

    def _note_failure(self, arrival: AwaitedNamespace, sentence: str) -> None:
        try:
            row = self._membership().live.rows.with_origin(origin_of(arrival.endpoint))
        except NetagentError:
            row = None
        if row is None:
            self._arrivals.forget(arrival.endpoint)
            self._failures.pop(arrival.endpoint, None)
            return
        self._failures[arrival.endpoint] = f"{row.target} has no names yet: {sentence}"
        _limited.warning(arrival.endpoint, self._failures[arrival.endpoint])


class _NetworkQuestion:
    """A request to Docker about one of its networks that is in progress."""

    def __init__(self, answered: trio.Event) -> None:
        self.answered = answered
        self.answer: DockerNetwork | None = None


def _make_folder(config: Config) -> None:
    try:
        config.docker_plugin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FailedError(
            f"cannot create the folder of {config.docker_plugin}: {error.strerror}",
            thing=str(config.docker_plugin),
            hint="choose another one with docker.plugin",
        ) from None
