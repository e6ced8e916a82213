"""The agent's answers to API requests: one method per command (netagent.control.agent_service says what each means).

Thin on purpose. A command either changes something, through a use-case (`endpoints`, `networks`, `agent`), or shows
something, which `control.present` renders from the view.
"""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import trio

from netagent import __version__
from netagent.commands.examine import diagnose
from netagent.commands.explain_facts import endpoint_with, explain_endpoints, explain_host, explain_network
from netagent.commands.inspect import inspect_noted, inspect_thing, is_called
from netagent.commands.lookup import look_up, look_up_elsewhere, with_name_servers
from netagent.commands.missing_networks import not_known, notices
from netagent.commands.ping import ping
from netagent.commands.reasons import doctor as doctor_of
from netagent.commands.reasons import why as why_of
from netagent.commands.space_use import space_use
from netagent.commands.status import status_of
from netagent.control.present import LocalFacts, Presenter, ProbeView
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.doctor.checks.cluster_checks import ALONE_CHECKS, CLUSTER_CHECKS, StatusWarning
from netagent.doctor.checks.finding import examine
from netagent.doctor.explain import WhyReport
from netagent.endpoints import resolv_conf
from netagent.endpoints.drain import DRAIN_S
from netagent.endpoints.find import fenced_called, local_endpoint_called, network_called, target_shown
from netagent.endpoints.network_defaults import shortcoming
from netagent.endpoints.targets import named_netns
from netagent.endpoints.validation import noted_endpoint
from netagent.errors import FailedError, InputError, NotFoundError
from netagent.interface import schema
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.publication import Publication
from netagent.model.records import Link
from netagent.model.request import AttachRequest, ListFilter, NetworkRequest
from netagent.registry.cluster_overview import ClusterOverview
from netagent.registry.view import AgentState, EndpointView, NetworkView, RegistryView
from netgossip.errors import WireError
from netgossip.join.invitation import parse_token_untrusted
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

T = TypeVar("T")
S = TypeVar("S")

COMPARE_S: Final = 2.0
"""While a list is watched, how often the agent compares the answers of other members."""


class AgentCommands:
    """The AgentService of a running agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    # -- the agent itself ----------------------------------------------------------------------------------------

    async def status(self) -> schema.Status:
        """Return the state of this host."""
        return await status_of(self._agent)

    async def version(self) -> schema.AgentVersion:
        """Return the agent's version."""
        return {"version": __version__, "python": platform.python_version(), "kernel": platform.release()}

    async def init(self, cluster: str) -> schema.Initialised:
        """Start a cluster."""
        created = await self._agent.init(cluster)
        return {"cluster": self._cluster_part(), "created": created}

    async def invite(self, ttl_s: float, uses: int) -> schema.Invitation:
        """Make a token."""
        token = self._agent.invite(ttl_s, uses)
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ttl_s)
        return {
            "token": token.render(),
            "ttl_s": ttl_s,
            "uses": uses,
            "expires_at": expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    async def join(self, addresses: Sequence[str], token: str) -> schema.Joined:
        """Join a cluster."""
        if not token:
            raise InputError(
                "a join needs a token",
                thing="token",
                hint="run `netagent invite` on a member and pass its token",
            )
        try:
            parsed = parse_token_untrusted(token)
        except WireError as error:
            raise InputError(
                str(error), thing="token", hint="make a new one with `netagent invite`"
            ) from None
        via = await self._agent.join(addresses, parsed)
        hosts = self._cluster().live.view.hosts.values()
        members = sum(host.agent is not AgentState.LEFT for host in hosts)
        return {"cluster": self._cluster_part(), "via": via, "members": members}

    async def leave(self, drain_s: float | None) -> schema.Left:
        """Leave the cluster for good."""
        cluster = self._cluster_part()
        detached = await self._agent.leave(DRAIN_S if drain_s is None else drain_s)
        return {"cluster": cluster, "detached": detached}

    async def forget(self, hosts: Sequence[str], dead_for_s: float, *, force: bool) -> schema.ForgetAnswer:
        """Evict hosts that are gone for good and take over the addresses they owned."""
        present = self._presenter()
        done = await self._cluster().eviction.forget(hosts, dead_for_s=dead_for_s, force=force)
        return {
            "hosts": [present.gone(host) for host in done.hosts],
            "addresses": done.address_count,
            "unheard": list(done.unheard),
        }

    async def withdraw(self, drain_s: float | None) -> schema.WithdrawAnswer:
        """Withdraw the names of this host on all hosts."""
        told = await self._cluster().leaving.withdraw(DRAIN_S if drain_s is None else drain_s)
        return {"name": self._agent.config.name, "told": told}

    async def members(self) -> list[schema.MemberInfo]:
        """Return all hosts."""
        cluster, present = self._cluster(), self._presenter()
        return [present.member(host, self._sight(i)) for i, host in cluster.live.view.hosts.items()]

    def _sight(self, host_id: HostId) -> ProbeView:
        prober = self._cluster().probing.prober
        return ProbeView(prober.rtt_s(host_id), prober.path(host_id))

    # -- networks ------------------------------------------------------------------------------------------------

    async def network_create(self, request: NetworkRequest) -> schema.Network:
        """Create a network, or return the existing one."""
        network, created = await self._cluster().networks.create(request)
        await self._agent.runtimes.wait_mirrored(network.network_id)
        found = shortcoming(network.record)
        warnings: list[schema.Notice] = (
            [] if found is None else [{"code": "ipv4-only", "message": found[0], "cure": found[1]}]
        )
        return {**self._presenter().network(network), "created": created, "warnings": warnings}

    async def network_list(self) -> list[schema.Network]:
        """Return all networks, and how much of each every host owns."""
        overview = await self._overview()
        present = self._presenter(overview)
        return [self._with_use(present, network) for network in overview.view.networks.values()]

    async def network_inspect(self, network: str) -> schema.Network:
        """Return one network. If this host is not in it, hosts that are in it supply the number of endpoints."""
        network_id = network_called(self._cluster().live.view, network).network_id
        overview = await self._overview({network_id})
        found = network_called(
            overview.view, network_id
        )  # it may have been removed while we asked other hosts
        return {**self._with_use(self._presenter(overview), found), "space": self._own_space(network_id)}

    def _with_use(self, present: Presenter, network: NetworkView) -> schema.Network:
        cluster, network_id = self._cluster(), network.network_id
        is_known = network_id not in present.unknown
        use = space_use(present, network, cluster.allocator.space(network_id), is_known=is_known)
        return {**present.network(network), "use": use}

    def _own_space(self, network_id: NetworkId) -> schema.Space:
        allocator = self._cluster().allocator
        free, owned = allocator.free_count(network_id)
        cooling = allocator.cooling_count(network_id)
        used = sum(1 for row in self._rows() if row.network_id == network_id)
        view = self._cluster().live.view
        used += view.local in view.host_addresses(network_id)
        return {"owned": owned, "used": used, "free": free - cooling, "cooling": cooling}

    async def network_remove(self, network: str, *, force: bool) -> schema.NetworkRemoved:
        """Remove a network for good."""
        cluster = self._cluster()
        found = network_called(cluster.live.view, network)
        mine = [row for row in self._rows() if row.network_id == found.network_id]
        removed = await cluster.networks.remove(network, force=force)
        for row in mine:
            await cluster.endpoints.remove(row)
        return {"id": removed.network_id, "name": removed.unique_name, "detached": len(mine)}

    async def network_prune(self) -> list[schema.NetworkRemoved]:
        """Remove all networks that have no endpoints."""
        removed = await self._cluster().networks.prune()
        return [{"id": one.network_id, "name": one.unique_name, "detached": 0} for one in removed]

    async def network_connect(self, network: str, target: str) -> schema.Endpoint:
        """Attach a sandbox to one more network, under the name it has."""
        cluster = self._cluster()
        named = [row for row in self._rows() if row.name == target]
        is_id = any(row.endpoint_id.startswith(target) for row in self._rows())
        if named or is_id or cluster.live.view.endpoints_named(target):
            # The same container in several networks is one container.
            is_one = len({row.netns and row.netns.path for row in named}) == 1
            row = named[0] if is_one else local_endpoint_called(cluster.live, target)
            # The runtime's name of a container is not a target.
            target = row.netns.path if row.origin and row.netns else row.target
        return await self.attach(AttachRequest(target=target, network=network))

    async def network_disconnect(self, network: str, target: str) -> schema.Detached:
        """Detach a sandbox from a network."""
        cluster = self._cluster()
        found = network_called(cluster.live.view, network)
        for row in self._rows():
            if row.network_id == found.network_id and target in {
                row.name,
                row.target,
                row.endpoint_id,
                target_shown(row),
            }:
                await cluster.endpoints.remove(row)
                return self._detached(row, found)
        raise NotFoundError(
            f"{target} is not in network {found.unique_name} on this host",
            thing=target,
            hint="see `netagent endpoints`",
        )

    # -- endpoints -----------------------------------------------------------------------------------------------

    async def attach(self, request: AttachRequest) -> schema.Endpoint:
        """Attach a sandbox to a network."""
        row, created = await self._cluster().endpoints.attach(request)
        netns_name = named_netns(row)
        found = resolv_conf.shortcoming(netns_name) if netns_name else None
        warnings: list[schema.Notice] = (
            [] if found is None else [{"code": "resolv-conf", "message": found[0], "cure": found[1]}]
        )
        return {**self._endpoint(row), "created": created, "warnings": warnings}

    async def detach(self, endpoint: str, drain_s: float | None) -> schema.Detached:
        """Detach an endpoint."""
        cluster = self._cluster()
        networks = cluster.live.view.networks
        row = await cluster.endpoints.detach(endpoint, drain_s)
        return self._detached(row, networks.get(row.network_id))

    async def link(self, endpoint: str, link: Link) -> schema.Endpoint:
        """Add a link."""
        return self._endpoint(await self._cluster().endpoints.link(endpoint, link))

    async def unlink(self, endpoint: str, link: Link) -> schema.Endpoint:
        """Remove a link."""
        return self._endpoint(await self._cluster().endpoints.unlink(endpoint, link))

    async def publish(self, endpoint: str, publication: Publication) -> schema.Endpoint:
        """Forward ports of this host to an endpoint."""
        return self._endpoint(await self._cluster().endpoints.publish(endpoint, publication))

    async def unpublish(self, endpoint: str, publication: Publication) -> schema.Endpoint:
        """Stop forwarding them."""
        return self._endpoint(await self._cluster().endpoints.unpublish(endpoint, publication))

    # -- the table -----------------------------------------------------------------------------------------------

    async def endpoints(self, only: ListFilter) -> list[schema.Endpoint]:
        """Return the endpoints of the cluster."""
        overview = await self._overview_for(only)
        present, view = self._presenter(overview), overview.view
        rows = self._cluster().live.fenced.values()
        fenced = [noted_endpoint(row, view.local) for row in rows]
        is_wanted = self._filter(view, only)
        found = await in_slices(_each(present.endpoint, _known(view), is_wanted))
        return found + await in_slices(_each(present.noted, fenced, is_wanted))

    async def services(self, only: ListFilter) -> list[schema.Service]:
        """Return the services of the cluster."""
        overview = await self._overview_for(only)
        present, view = self._presenter(overview), overview.view
        keys = await in_slices(_each(_service_key, _known(view), self._filter(view, only)))
        return await in_slices(_services(present, view, dict.fromkeys(keys)))

    async def gaps(self, only: ListFilter) -> list[schema.Notice]:
        """Return a notice for each network that such a list lacks."""
        overview = await self._overview_for(only)
        return notices(self._presenter(overview), overview.gaps)

    async def inspect(self, thing: str, *, why: bool, local: bool = False) -> schema.Inspection:
        """Return everything known of one object."""
        overview = await self._overview(local=local)
        present = self._presenter(overview)
        try:
            found = await in_slices(inspect_thing(present, thing, self._sight))
        except NotFoundError as error:
            row = fenced_called(self._cluster().live, thing)
            if row is not None:
                found = inspect_noted(present, noted_endpoint(row, present.view.local))
            elif overview.gaps:
                raise not_known(present, overview.gaps, error.message, thing) from None
            elif local:
                raise NotFoundError(
                    f"nothing on this host has the name, address or id {thing!r}",
                    thing=thing,
                    hint="leave out `--local` to ask also hosts of networks that this host is not in",
                ) from None
            else:
                raise
        if found["kind"] != "endpoint":
            about = [g for g in overview.gaps if found["kind"] != "network" or g.network_id == found["id"]]
            found["warnings"] = notices(present, about)
        if why:
            found["why"] = await self._why(found, overview)
        return found

    async def _why(self, found: schema.Inspection, overview: ClusterOverview) -> schema.Why:
        cluster, present = self._cluster(), self._presenter(overview)
        match found["kind"]:
            case "network":
                explanation = await explain_network(cluster, NetworkId(found["id"]))
            case "host":
                explanation = await explain_host(cluster, HostId(found["id"]))
            case "service":
                ids = [EndpointId(one["id"]) for one in found["endpoints"]]
                explanation = await self._explain_endpoints(ids, overview)
            case "endpoint":
                explanation = await self._explain_endpoints([EndpointId(found["id"])], overview)
        return why_of(present, explanation)

    async def _explain_endpoints(self, ids: Sequence[EndpointId], overview: ClusterOverview) -> WhyReport:
        """Explain the endpoints. Those known only from other members have no objects in this host's kernel; the same
        code reads it."""
        cluster, present = self._cluster(), self._presenter(overview)
        endpoints = [one for endpoint_id in ids for one in endpoint_with(overview.view, endpoint_id)]
        told = overview.view if overview.told_by else None
        return await explain_endpoints(cluster, endpoints, lambda one: present.endpoint(one)["names"], told)

    async def doctor(self) -> schema.Doctor:
        """Run all checks: the host, records against kernel, and everything that `status` warns of."""
        diagnosis = await diagnose(self._agent)
        status = await status_of(self._agent, is_thorough=True)
        checks = CLUSTER_CHECKS if status["cluster"] is not None else ALONE_CHECKS
        warned = [StatusWarning(one["code"], one["message"], one["cure"]) for one in status["warnings"]]
        whole = replace(diagnosis, cluster=tuple(examine(checks, warned)))
        return doctor_of(whole, agent="answers")

    async def ping(self, asked: schema.PingRequest) -> schema.Ping:
        """Test connectivity."""
        return await ping(self._cluster(), asked, self._agent.foreign_rules)

    async def lookup(
        self, name: str, rtype: str, from_endpoint: str, *, local: bool = False
    ) -> schema.Lookup:
        """Return the resolver's answer; for a name outside the cluster, that of the host's name servers."""
        cluster = self._cluster()
        found = await look_up(cluster, name, rtype, from_endpoint)
        if not local and not found["answers"]:
            overview = await self._overview()
            presenter = self._presenter(overview)
            found = await look_up_elsewhere(cluster, found, (name, rtype), presenter, overview)
        return await with_name_servers(cluster, found)

    async def wait_changed(self, seen: int) -> int:
        """Wait until the generation of what lists show is not `seen`; also compares the answers of other members."""
        cluster = self._cluster()
        while True:
            with trio.move_on_after(COMPARE_S):
                return await cluster.live.wait_newer(seen)
            if cluster.gossip.remote_networks.is_used and await cluster.gossip.remote_networks.has_news():
                return cluster.live.revision

    # -- parts ---------------------------------------------------------------------------------------------------

    def _cluster(self) -> Cluster:
        return self._agent.member()

    def _cluster_part(self) -> schema.ClusterPart:
        keys = self._cluster().keys
        return {"id": keys.cluster_id, "name": keys.cluster, "domain": keys.domain}

    def _rows(self) -> list[LocalEndpointRow]:
        return list(self._cluster().live.rows.values())

    async def _overview(
        self, networks: Collection[NetworkId] | None = None, *, local: bool = False
    ) -> ClusterOverview:
        """Return the whole cluster, or with `local` only what this host has records of."""
        remote = self._cluster().gossip.remote_networks
        return remote.local_overview if local else await remote.overview(networks)

    async def _overview_for(self, only: ListFilter) -> ClusterOverview:
        """Return the cluster; if the filter names a network or a host, without asking about other networks."""
        view = self._cluster().live.view
        network_id, host_id = self._places(view, only)
        wanted = {network_id} if network_id else None
        if host_id and wanted is None:
            wanted = {n for n in view.networks if host_id in view.attachments(n)}
        return await self._overview(wanted, local=only.local)

    def _presenter(self, overview: ClusterOverview | None = None) -> Presenter:
        """Return a presenter; without `overview`, for the records of this host only."""
        cluster = self._cluster()
        rows = [*cluster.live.fenced.values(), *self._rows()]
        facts = {
            row.endpoint_id: LocalFacts(target_shown(row), row.ifname or "", row.links, row.publish)
            for row in rows
        }
        known = overview or cluster.gossip.remote_networks.local_overview
        unknown = {gap.network_id for gap in known.gaps if not gap.is_old}
        synced = cluster.gossip.participation.is_synced
        unknown |= {n for n in known.view.networks if not synced(n) and self._is_untold(known, n)}
        return Presenter(known.view, cluster.keys.domain, facts, known.told_by, frozenset(unknown))

    def _is_untold(self, known: ClusterOverview, network_id: NetworkId) -> bool:
        """True if other hosts are in the network and none of them sent its endpoints."""
        others = known.view.attachments(network_id) - {known.view.local}
        return bool(others) and network_id not in known.told_by

    def _endpoint(self, row: LocalEndpointRow) -> schema.Endpoint:
        view = self._cluster().live.view
        found = view.endpoints.get(row.endpoint_id)
        if found is None:
            fenced = [e for e in view.fenced.values() if e.endpoint_id == row.endpoint_id]
            if not fenced:
                raise FailedError(f"the endpoint {row.name} was detached at the same moment", thing=row.name)
            found = fenced[0]
        return self._presenter().endpoint(found)

    def _detached(self, row: LocalEndpointRow, network: NetworkView | None) -> schema.Detached:
        name = network.unique_name if network else row.network_id[:8]
        return {"id": row.endpoint_id, "name": row.name, "network": name}

    def _places(self, view: RegistryView, only: ListFilter) -> tuple[NetworkId | None, HostId | None]:
        """Return the network and the host that a filter names. Raises NotFoundError."""
        network = network_called(view, only.network).network_id if only.network else None
        if not only.host:
            return network, None
        found = view.host_named(only.host)
        host = found.host_id if found else next((h for h in view.hosts if h.startswith(only.host)), None)
        if host is None:
            raise NotFoundError(
                f"there is no host {only.host!r}", thing=only.host, hint="see `netagent members`"
            )
        return network, host

    def _filter(self, view: RegistryView, only: ListFilter) -> Callable[[EndpointView], bool]:
        network, host = self._places(view, only)

        def is_wanted(endpoint: EndpointView) -> bool:
            if network not in {None, endpoint.network_id} or host not in {None, endpoint.owner}:
                return False
            return not only.service or is_called(endpoint, only.service)

        return is_wanted


def _each(
    show: Callable[[T], S], things: Iterable[T], is_wanted: Callable[[T], bool] | None = None
) -> Slices[list[S]]:
    """Render each as a list, in slices: there may be ten thousand."""
    shown = []
    for thing in things:
        if is_wanted is None or is_wanted(thing):
            shown.append(show(thing))
        yield
    return shown


def _services(
    present: Presenter, view: RegistryView, keys: Iterable[tuple[NetworkId, str]]
) -> Slices[list[schema.Service]]:
    shown = []
    for key in keys:
        shown.append((yield from present.service(view.service(*key))))
        yield
    return shown


def _service_key(endpoint: EndpointView) -> tuple[NetworkId, str]:
    return endpoint.network_id, endpoint.record.service


def _known(view: RegistryView) -> list[EndpointView]:
    return [*view.endpoints.values(), *view.fenced.values()]
