"""The daemon, one per host: builds the parts of an agent, starts and stops them, and follows signals.

    no cluster      API, mDNS; waits for `init` or `join`, unless a key ring is in the state directory already
    member          the same, and a Cluster (netagent.daemon.cluster)

SIGTERM and SIGINT stop it: the API finishes running requests, then the cluster's tasks end; kernel and resolver go
on. A second signal stops it at once. SIGHUP reads the configuration again. Only `leave` takes anything down.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import ipaddress
import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

import trio
from starlette.applications import Starlette
from starlette.requests import Request

from netagent import __version__, log
from netagent import config as configuration
from netagent.access.grant import FULL, READ_ONLY, Grant
from netagent.access.token_store import TokenStore
from netagent.access.tokens import bearer_untrusted
from netagent.config import Config
from netagent.control.api import ApiAccess, Handlers, Limit, api_routes, build_app, socket_access
from netagent.control.server import serve
from netagent.control.watch import WaitChanged
from netagent.daemon.cluster import Cluster
from netagent.daemon.join import Admission, addresses_given, be_admitted
from netagent.daemon.journal_recovery import require_journal
from netagent.daemon.memory import keep_collections_short
from netagent.daemon.peer_discovery import HostContext, PeerDiscovery
from netagent.daemon.runtimes import Runtimes
from netagent.daemon.systemd import ServiceManager
from netagent.datapath.host.underlay import find_underlay
from netagent.datapath.host.underlay_watch import UnderlayWatch
from netagent.datapath.host.uplink import LocalAddresses, Underlay, egress_interfaces
from netagent.doctor.checks.rule_match import Packet
from netagent.doctor.facts.foreign_rules_reader import ForeignRules
from netagent.endpoints.drain import DRAIN_S, REMEMBERED_S
from netagent.errors import InputError, NetagentError, RefusedError
from netagent.events.channel import event
from netagent.events.keeper import EventKeeper
from netagent.events.kinds import EventKind
from netagent.eviction.rejoin import reset_journal, wait_evicted
from netagent.http import health_routes
from netagent.http.listener import HttpListener
from netagent.membership.host_record import version_of_others
from netagent.model.author import AGENT, KERNEL, act_as
from netagent.model.ids import HostId
from netagent.page.access_key import AccessKeys
from netagent.page.contents import PageSource
from netagent.page.site import Site
from netagent.registry.view import RegistryView
from netagent.rpc.messages import Drops
from netagent.state_dir import ClusterKeys, Revocation, StateDir
from netagent.tunnel.device import require_backend
from netgossip.join.identity import PRIVATE_KEY_BYTES
from netgossip.join.invitation import Token
from netgossip.types import Address

SOCKET_GROUP = "netagent"
READ_ONLY_GROUP = "netagent-ro"
RING_KEY_BYTES = 32
MAX_DOMAIN_CHARS = 100
"""With the longest labels of a network and an endpoint and a type of DNS-SD, a name has room for three more."""
STOP_S = 15.0
"""After the first signal: longest time for a leave, if one is configured. Names are gone everywhere after 2.5 s,
clients use them for REMEMBERED_S more; systemd waits 20 s (netagent.service)."""

INVITED_AGAIN = "if you trust this host, type `netagent invite` on a member, then `netagent join` here"

logger = logging.getLogger("netagent")

LoadConfig = Callable[[], Config]


class Agent:
    """One run of the daemon."""

    def __init__(self, load_config: LoadConfig, supervision: ServiceManager | None = None) -> None:
        self._load_config = load_config
        self._supervision = supervision or ServiceManager({})
        self.config = load_config()
        self.config_problem = ""
        """Why the last SIGHUP changed nothing."""
        self.waiting_keys: list[str] = []
        """Keys that it changed and that need a restart to take effect."""
        self.started_at = trio.current_time()
        self.cluster: Cluster | None = None
        self._is_rejoining = False
        self.former_ids: list[str] = []
        """Identities of this run that the cluster has evicted."""
        self.revocation: Revocation | None = None
        """Who revoked this host, as long as it is in no cluster since."""
        self.past_revocation: Revocation | None = None
        """The same, once this host was invited into that cluster again: its endpoints of then are fenced."""
        self._state = StateDir(self.config.state_dir, self.config.run_dir, self.config.keyring_file)
        self.events = EventKeeper(self._state.events_file)
        self.identity = self._state.identity(os.urandom(PRIVATE_KEY_BYTES))
        self.neighbours = PeerDiscovery()
        plugin = self._supervision.take_socket("docker") if self.config.docker_enabled else None
        self.runtimes = Runtimes(self.config, lambda: self.member().access, plugin)
        self.foreign_rules = ForeignRules()
        self.tokens = TokenStore(self._state.tokens_file)
        self.http = self._http_listener()
        self.ready = trio.Event()
        """Set once requests are answered."""
        self._changing = trio.Lock()
        self.shutdown = trio.Event()
        """Set when the agent is about to stop: requests that only wait end."""
        self._cluster_scope = trio.CancelScope()
        self._cluster_ended = trio.Event()
        self._nursery: trio.Nursery

    # -- running -----------------------------------------------------------------------------------------------

    async def run(
        self, handlers: Handlers, wait_changed: WaitChanged, page: PageSource, limited: Limit
    ) -> None:
        """Run until a signal says stop. `handlers` answer the API, `wait_changed` is for watched lists, `page` is for
        the web page, and `limited` holds requests to the limits of tokens."""
        stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with contextlib.closing(self._state), trio.open_signal_receiver(*stops) as signals:
            async with self.events.running(), trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._follow_signals, signals)
                self._nursery.start_soon(self._supervision.run_watchdog)
                self._nursery.start_soon(keep_collections_short)
                wanted = self.config.advertise or self.config.bind
                self.underlay = await find_underlay(wanted)
                self.uplinks = UnderlayWatch(
                    wanted,
                    self.underlay,
                    move=self._move,
                    note_look=self.neighbours.note_change,
                    version=self._version_of_others,
                )
                keys = self._state.cluster_keys()
                if keys is None:
                    self.revocation = self._state.revocation()
                    await self.tokens.forget()
                else:
                    self.past_revocation = self._state.revocation()
                    await require_journal(self._state.journal_file, self.config.keyring_file)
                    await self._enter(keys)
                await self._nursery.start(self.uplinks.run)
                self._nursery.start_soon(self._run_neighbours)
                await self._nursery.start(self.runtimes.run)
                async with trio.open_nursery() as api:
                    building = functools.partial(
                        build_app, handlers, wait_changed, wait_noted=self.events.wait_newer
                    )
                    app = building(self.runtimes.routes, access=socket_access(FULL))
                    serving = functools.partial(serve, listener=self._supervision.take_socket("api"))
                    await api.start(serving, app, self.config.socket_path, SOCKET_GROUP, self.shutdown)
                    await self._serve_readers(api, building(access=socket_access(READ_ONLY)))
                    if self.http is not None:
                        site = Site(page, wait_changed, lambda: self.page_keys, self.tokens)
                        self.http.add(site.routes)
                        self._nursery.start_soon(site.run)
                        access = ApiAccess(self._grant_of, limited, self.tokens.ended)
                        noted = self.events.wait_newer
                        self.http.add(api_routes(handlers, wait_changed, access=access, wait_noted=noted))
                        self._nursery.start_soon(self.tokens.run)
                        api.start_soon(self.http.run, self.shutdown)
                    self.ready.set()
                    ready = event(EventKind.AGENT)
                    logger.info(
                        "agent %s (%s), netagent %s, is ready",
                        self.config.name,
                        self.identity.node_id[:8],
                        __version__,
                        extra=ready,
                    )
                    self._supervision.tell_ready(self._situation())
                await self._stop()
        logger.info("agent stopped; containers, networks and names stay as they are")

    def _grant_of(self, request: Request) -> Grant:
        """Return what the token of a request by TCP grants."""
        return self.tokens.proven_untrusted(bearer_untrusted(request.headers.get("authorization"))).grant

    def _http_listener(self) -> HttpListener | None:
        """None: the configuration wants none."""
        if not self.config.http:
            return None
        return HttpListener(
            self.config.http, health_routes.routes(self._view), tokens=self.tokens, make_tls=self._make_tls
        )

    def _make_tls(self) -> ssl.SSLContext:
        # Imported here, because only listeners that other hosts reach need it.
        from netagent.http.certificate import server_context

        bound = ipaddress.ip_address(self.config.http.rpartition(":")[0].strip("[]"))
        addresses = [self.underlay.address] + ([] if bound.is_unspecified else [str(bound)])
        now = datetime.now(UTC)
        return server_context(self.config.state_dir, self.config.run_dir, self.config.name, addresses, now)

    async def _serve_readers(self, api: trio.Nursery, app: Starlette) -> None:
        """Serve the read-only socket. Without it the agent still does its work."""
        listener = self._supervision.take_socket("api-ro")
        serving = functools.partial(serve, listener=listener, is_bounded=True)
        path = self.config.read_only_socket_path
        try:
            await api.start(serving, app, path, READ_ONLY_GROUP, self.shutdown)
        except NetagentError as error:
            logger.warning("no read-only socket: %s", error)

    async def _move(self, underlay: Underlay) -> None:
        """Follow a change of the address at which others reach this host, or of the device that has it."""
        if self.cluster is not None:
            await self.cluster.move(underlay)
        if underlay.address != self.underlay.address:
            logger.warning(
                "this host's underlay address is now %s, was %s",
                underlay.address,
                self.underlay.address,
                extra=event(EventKind.MEMBER, self.config.name, author=KERNEL),
            )
        self.underlay = underlay
        self.neighbours.note_change()

    def _ways_out(self) -> frozenset[str]:
        return egress_interfaces(self.uplinks.uplinks, self.underlay)

    async def _find_drops(self, asked: Drops) -> tuple[str, ...]:
        """For another host's `ping`: return the rules on this host that drop a packet to or from a container here."""
        packet = Packet(protocol=asked.protocol, port=asked.port, source=asked.source, target=asked.target)
        is_apart = self.cluster is not None and self.cluster.kernel.bridge_nf_bypass.is_active
        found = await self.foreign_rules.dropping(packet, is_inside=True, is_apart=is_apart)
        return tuple(one.message for one in found)

    @property
    def page_keys(self) -> AccessKeys:
        """What opens the page of this host, as long as it has this identity."""
        return AccessKeys(hashlib.sha256(self.identity.sign(b"netagent: keys of the page")).digest())

    def _view(self) -> RegistryView | None:
        return None if self.cluster is None else self.cluster.live.view

    def _version_of_others(self) -> int | None:
        return version_of_others(self.cluster.live.view) if self.cluster is not None else None

    def _situation(self) -> str:
        """The sentence for `systemctl status`."""
        cluster = f"in the cluster {self.cluster.keys.cluster}" if self.cluster else "in no cluster"
        return f"{self.config.name} ({self.identity.node_id[:8]}), {cluster}"

    async def _stop(self) -> None:
        if self.config.leave_on_shutdown and self.cluster is not None:
            with trio.move_on_after(STOP_S):
                await self.leave(REMEMBERED_S)
        self._nursery.cancel_scope.cancel()

    async def _follow_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._reload()
            elif self.shutdown.is_set():
                logger.warning("second signal: stopping at once")
                self._nursery.cancel_scope.cancel()
            else:
                name = signal.Signals(number).name
                logger.info("%s: stopping", name, extra=event(EventKind.AGENT))
                self._supervision.tell_stopping()
                self.shutdown.set()

    def _reload(self) -> None:
        try:
            new = self._load_config()
        except NetagentError as error:
            self.config_problem = str(error)
            unread = event(EventKind.AGENT)
            logger.warning("the configuration was not changed: %s", error, extra=unread)
            return
        at_once, later = configuration.changed_keys(self.config, new)
        self.config_problem, self.waiting_keys = "", later
        values = {name: getattr(new, name) for name in at_once}
        self.config = configuration.replaced(self.config, values)
        log.configure(self.config.log_level, self.config.log_format)
        self.neighbours.set_seeds(self.config.seeds)
        if self.cluster is not None:
            self.cluster.config = self.config
            self.cluster.live.note_change()
        changed = ", ".join(at_once) or "nothing"
        logger.info("read the configuration again; changed: %s", changed, extra=event(EventKind.AGENT))
        if later:
            logger.warning("these keys need a restart to take effect: %s", ", ".join(later))

    async def _run_neighbours(self) -> None:
        self.neighbours.set_seeds(self.config.seeds)
        await self.neighbours.run(
            lambda: HostContext(self.config, self.identity, self.underlay, self.uplinks, self.cluster)
        )

    # -- membership --------------------------------------------------------------------------------------------

    def member(self) -> Cluster:
        """The cluster this host is in. RefusedError when it is in none."""
        if self.cluster is None and self._is_rejoining:
            raise RefusedError(
                "this host was evicted from the cluster and is rejoining with a new identity",
                code="begins-anew",
                thing=self.config.name,
                hint="try again in a few seconds",
            )
        if self.cluster is None and self.revocation is not None:
            raise RefusedError(
                f"this host was revoked from the cluster {self.revocation.cluster}, on {self.revocation.by}",
                code="revoked",
                thing=self.config.name,
                hint=INVITED_AGAIN,
            )
        if self.cluster is None:
            raise RefusedError(
                "this host belongs to no cluster",
                code="no-cluster",
                thing=self.config.name,
                hint="start a cluster with `netagent init`, or join one with `netagent join`",
            )
        return self.cluster

    async def init(self, cluster_name: str, *, encrypt: bool = False, allow_unsigned: bool = False) -> bool:
        """Start a cluster; False when this host is in one of that name already. RefusedError if that does not
        encrypt although it should, or refuses members without proofs although it should not."""
        async with self._changing:
            name = cluster_name or self.config.cluster
            if self.cluster is not None:
                if cluster_name in {"", self.cluster.keys.cluster}:
                    if encrypt:
                        self.cluster.encryption.require_on()
                    if allow_unsigned and not self.cluster.signed_members.allows_unsigned:
                        raise RefusedError(
                            "this host is in a cluster already, whose members must sign what they say",
                            code="unsigned-refused",
                            hint="that is decided when a cluster begins: `netagent leave`, then "
                            "`netagent init --allow-unsigned`",
                        )
                    return False
                raise self._in_a_cluster()
            domain = self.config.domain or f"{name}.internal"
            if len(domain) > MAX_DOMAIN_CHARS:
                raise InputError(
                    f"the domain has {len(domain)} characters, and names below it would be too long for DNS",
                    thing=domain,
                    hint=f"set domain to one of at most {MAX_DOMAIN_CHARS} characters",
                )
            ring = (os.urandom(RING_KEY_BYTES),)
            keys = ClusterKeys(
                os.urandom(16).hex(), name, domain, ring, encrypts=encrypt, allows_unsigned=allow_unsigned
            )
            await self._become_member(keys, encrypt=encrypt)
            logger.info("started the cluster %s", name, extra=event(EventKind.MEMBER, self.config.name))
            return True

    def invite(self, ttl_s: float, uses: int) -> Token:
        """Create a token with this host's address."""
        cluster = self.member()
        addresses: Sequence[Address] = [(cluster.underlay.address, self.config.record_port)]
        try:
            return cluster.gossip.invitations.create(
                tuple(addresses), trio.current_time(), ttl_s=ttl_s, uses=uses
            )
        except ValueError as error:
            raise RefusedError(
                f"cannot create an invitation: {error}", code="too-many", hint="wait until some expire"
            ) from None

    def uninvite(self, invitation_id: bytes | None) -> int:
        """Revoke an invitation of this host, or all (None); return how many were open."""
        return self.member().gossip.invitations.revoke(invitation_id)

    async def join(self, addresses: Sequence[str], token: Token) -> str:
        """Join the cluster of the token; return the address of the member that admitted us, '' if we are in it
        already."""
        async with self._changing:
            if self.cluster is not None:
                if self.cluster.keys.cluster_id == token.cluster_id:
                    return ""
                raise self._in_a_cluster()
            given = await addresses_given(addresses, self.config.record_port)
            heard = [n.record for n in self.neighbours.heard.values() if n.cluster_id == token.cluster_id]
            admission = await be_admitted(
                list(dict.fromkeys([*given, *token.addresses, *heard])),
                token,
                identity=self.identity,
                name=self.config.name,
                local_addresses=self._local_addresses,
            )
            await self._follow(admission)
            return admission.member

    def _local_addresses(self) -> LocalAddresses:
        return LocalAddresses(self.underlay, self.uplinks.uplinks, self.config.advertise or self.config.bind)

    async def _follow(self, admission: Admission) -> None:
        """Join at the address that the other members can reach; go back to the former one if that fails."""
        given, before = admission.credentials, self.underlay
        if given.encrypts:
            await require_backend()  # or it would be a member that reaches none of the others' containers
        keys = ClusterKeys(
            given.cluster_id,
            given.cluster,
            given.domain,
            given.keys,
            encrypts=given.encrypts,
            allows_unsigned=given.allows_unsigned,
        )
        if admission.underlay != before:
            await self._move(admission.underlay)
        try:
            await self._become_member(keys, seeds=given.members)
        except BaseException:
            if self.underlay == admission.underlay:  # else it changed once more meanwhile
                self.underlay = before
            raise
        joined = event(EventKind.MEMBER, self.config.name)
        logger.info("joined the cluster %s", keys.cluster, extra=joined)

    async def _become_member(
        self, keys: ClusterKeys, seeds: Sequence[Address] = (), *, encrypt: bool = False
    ) -> None:
        """Become a member; after a failure nothing is left that a later start would find."""
        await self.tokens.forget()  # those that are left are another cluster's
        if self.revocation is None or self.revocation.cluster_id != keys.cluster_id:
            self._state.forget_cluster()  # and so is a journal without keys; a revoked host's has what is fenced
        self._state.save_cluster_keys(keys)
        try:
            await self._enter(keys, seeds, encrypt=encrypt)
        except BaseException:
            self._state.forget_cluster()
            raise
        if self.revocation is not None and self.revocation.cluster_id == keys.cluster_id:
            self.past_revocation = self.revocation
        else:
            self._forget_revocation()
        self.revocation = None

    def _forget_revocation(self) -> None:
        self.past_revocation = None
        self._state.forget_revocation()

    async def leave(self, drain_s: float = DRAIN_S) -> int:
        """Leave for good; return the number of endpoints that were detached."""
        async with self._changing:
            detached = await self.member().leaving.leave(drain_s)
            self._cluster_scope.cancel()
            # The journal is closed only then, and its file is about to be deleted.
            await self._cluster_ended.wait()
            await self.tokens.forget()
            # Before the keys go: a host without keys that finds the note takes itself for revoked.
            self._forget_revocation()
            self._state.forget_cluster()
            self._state.forget_identity()
            self.identity = self._state.identity(os.urandom(PRIVATE_KEY_BYTES))
            logger.info(
                "left the cluster; %d endpoints detached",
                detached,
                extra=event(EventKind.MEMBER, self.config.name),
            )
            return detached

    async def _follow_fate(self, cluster: Cluster, ended: trio.Event) -> None:
        """Rejoin under another identity when the cluster has evicted this one; end when an operator revoked it."""
        act_as(AGENT)
        if await wait_evicted(cluster.live, ended, lambda: cluster.gossip.refused is not None):
            by = cluster.revoked_by
            await (self._rejoin(cluster) if by is None else self._end_revoked(cluster, by))

    async def _end_revoked(self, cluster: Cluster, by: HostId) -> None:
        """Leave the cluster that has revoked this host. Its containers run on without their networks."""
        async with self._changing:
            if self.cluster is not cluster:  # left while we waited for the lock
                return
            writer = cluster.live.view.hosts.get(by)
            keys = cluster.keys
            note = Revocation(
                keys.cluster_id,
                keys.cluster,
                by[:8] if writer is None else writer.unique_name,
                self.identity.node_id,
            )
            count = await cluster.leaving.fence()
            self._cluster_scope.cancel()
            await self._cluster_ended.wait()
            # In this order: a crash before the keys are gone finds the old identity, which is refused once more; a
            # later one finds nothing of it in the journal, which the next identity uses.
            await reset_journal(self._state.journal_file)
            self._state.note_revoked(note)
            self.revocation = note
            await self.tokens.forget()
            self._state.forget_identity()
            self.identity = self._state.identity(os.urandom(PRIVATE_KEY_BYTES))
            logger.warning(
                "the cluster %s has revoked this host (%s), on %s; %d endpoints are fenced",
                note.cluster,
                note.host_id[:8],
                note.by,
                count,
                extra=event(EventKind.EVICT, self.config.name),
            )

    async def _rejoin(self, cluster: Cluster) -> None:
        async with self._changing:
            if self.cluster is not cluster:  # left while we waited for the lock
                return
            former, self._is_rejoining = self.identity.node_id, True
            evicted = event(EventKind.EVICT, self.config.name)
            logger.warning(
                "the cluster has evicted this host (%s): rejoining with a new identity",
                former[:8],
                extra=evicted,
            )
            count = await cluster.leaving.fence()
            self._cluster_scope.cancel()
            await self._cluster_ended.wait()
            # In this order: a crash between the two finds the old identity, which is evicted once more.
            await reset_journal(self._state.journal_file)
            self._state.forget_identity()
            self.identity = self._state.identity(os.urandom(PRIVATE_KEY_BYTES))
            self.former_ids.append(former)
            self._forget_revocation()  # what is fenced from now on was so by this eviction
            # Not those that it entered with: the ring may have changed since.
            await self._enter(cluster.ring.keys)
            self._is_rejoining = False
            logger.warning(
                "rejoined as a new host, %s; %d endpoints are fenced",
                self.identity.node_id[:8],
                count,
                extra=event(EventKind.MEMBER, self.config.name),
            )

    async def _enter(
        self, keys: ClusterKeys, seeds: Sequence[Address] = (), *, encrypt: bool = False
    ) -> None:
        cluster = Cluster(
            self.config,
            keys,
            identity=self.identity,
            state=self._state,
            underlay=self.underlay,
            egress_interfaces=self._ways_out,
            find_drops=self._find_drops,
            execute=self.runtimes.execute,
            answer_events=self.events.answer,
            introduced=seeds,
        )
        cluster.set_seeds(())
        await self._nursery.start(self._run_cluster, cluster)
        self.cluster = cluster
        try:
            if cluster.underlay != self.underlay:  # it changed in the seconds that this took
                await cluster.move(self.underlay)
            if encrypt:
                await cluster.encryption.turn_on()
        except BaseException:  # the caller takes the keys back, so no task may continue with them
            self._cluster_scope.cancel()
            with trio.CancelScope(shield=True):
                await self._cluster_ended.wait()
            raise
        self._nursery.start_soon(self._follow_fate, cluster, self._cluster_ended)
        self._supervision.tell_status(self._situation())
        self.neighbours.note_change()

    async def _run_cluster(self, cluster: Cluster, *, task_status: trio.TaskStatus[None]) -> None:
        self._cluster_ended = trio.Event()
        act_as(AGENT)  # a request for `init` or `join` started this task, which outlives it
        try:
            with trio.CancelScope() as self._cluster_scope:
                await cluster.run(task_status)
        finally:
            self.cluster = None
            self._supervision.tell_status(self._situation())
            self._cluster_ended.set()
            self.neighbours.note_change()

    def _in_a_cluster(self) -> RefusedError:
        assert self.cluster is not None
        return RefusedError(
            f"this host is already in the cluster {self.cluster.keys.cluster}",
            code="in-a-cluster",
            thing=self.cluster.keys.cluster,
            hint="run `netagent leave` first, which detaches its containers",
        )
