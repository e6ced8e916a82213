"""The use-cases on networks: create, set, remove.

To create a network: publish the record, let it settle, resolve conflicts, grant address space to other hosts. It has
settled when every live host has acknowledged it and this host has all that they had written by then. So if two hosts
create a network of the same name at the same instant, at least one knows of both before it grants any space. The same
rule (netagent.registry.conflict_rules) makes the same network yield on every host. But the other host may have
decided before it received our record, so the winner waits until the loser has withdrawn, or turns out to have been
first. The grants are acknowledged too before `create` returns: from then on no host depends on the creator.

Any host may set options of a network, also while its creator is away (netagent.registry.network_options).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

import trio

from netagent.endpoints.find import host_called, network_called
from netagent.endpoints.network_defaults import (
    NetworkConstraints,
    differences,
    plan_network,
    refuse_contradiction,
    shortcoming,
)
from netagent.errors import FailedError, NotFoundError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.external.view import added_to, external_services
from netagent.ipam.space import share_out
from netagent.membership.participation import Participation
from netagent.model.egress import OPEN, may_reach
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import (
    DnsName,
    FixedAddresses,
    HostProgram,
    NetworkOption,
    NetworkOptionsRecord,
    NetworkRecord,
    OptionChange,
    Policy,
    RemovalRecord,
    ServiceAddressOrigin,
    ServiceTarget,
)
from netagent.model.request import NetworkRequest
from netagent.model.subnet import offset_count
from netagent.registry.network_options import (
    next_number,
    overruled_by_next,
    value_of,
    with_changes,
    with_options,
)
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, EndpointView, NetworkView, RegistryView
from netgossip.records.replication import Replication
from netgossip.types import CLUSTER_SCOPE

SETTLE_S = 1.0
"""How long a new network waits for the other hosts. A host that is silent for longer gets it by anti-entropy."""
SETTLE_POLL_S = 0.005
"""A round trip in a site takes a fraction of this."""
AUDIT_S = 2.0
"""How long a network is audited on its way from `open` to `links`: a stream of datagrams sends within it."""
CHOICE_ATTEMPTS = 5
MAX_SHARED_OUT = 256
"""Bound of hosts that get space when a network is made; beyond it: others ask, ahead of need."""

logger = logging.getLogger("netagent.endpoints.networks")


@dataclass(frozen=True, slots=True)
class ChangedNetwork:
    """A network after its options were set."""

    network: NetworkView
    former: Mapping[NetworkOption, str]
    """The former value of each option that has changed."""
    unheard: frozenset[HostId]
    """Live hosts that have not acknowledged the change yet."""


class Networks:
    """Create and remove networks. One creation at a time per host.

    `sweep` withdraws this host's endpoints in a network whose containers are gone (GarbageCollector.sweep).
    """

    def __init__(
        self,
        live: StateStore,
        publisher: Publisher,
        records: Replication,
        participation: Participation,
        *,
        surroundings: Callable[[RegistryView], NetworkConstraints],
        sweep: Callable[[NetworkId], Awaitable[None]],
    ) -> None:
        self._live = live
        self._publisher = publisher
        self._records = records
        self._participation = participation
        self._surroundings = surroundings
        self._sweep = sweep
        self._creating = trio.Lock()
        self._changing = trio.Lock()
        self.in_work: set[NetworkId] = set()
        """Networks that `create` has not decided about yet: no other code withdraws them."""

    async def create(self, request: NetworkRequest) -> tuple[NetworkView, bool]:
        """Create a network; return it and whether it is new. RefusedError when it exists with other options or does
        not fit."""
        refuse_contradiction(request)
        async with self._creating:
            for _ in range(CHOICE_ATTEMPTS):
                existing = await self._existing(request.name)
                if existing is not None:
                    return _if_equal(existing, request), False
                record = self.planned(self._live.view, request, NetworkId(os.urandom(16).hex()))
                made = await self._publish(record, request)
                if made is not None:
                    made_known = event(EventKind.NETWORK, record.name)
                    logger.info(
                        "created network %s: %s", record.name, ", ".join(record.subnets), extra=made_known
                    )
                    found = shortcoming(record)
                    if found is not None:
                        logger.warning("%s", found[0])
                    return made, True
        raise FailedError(
            f"network {request.name} conflicted with other new networks in {CHOICE_ATTEMPTS} attempts",
            code="pool-contended",
            thing=request.name,
            hint="try again, or give a subnet with --subnet",
        )

    def planned(self, view: RegistryView, request: NetworkRequest, network_id: NetworkId) -> NetworkRecord:
        """Return the record of a new network, as the registry is. Raises InputError, RefusedError."""
        return plan_network(request, network_id, self._surroundings(view))

    async def _existing(self, name: str) -> NetworkView | None:
        """Return the network of that name, or None. One that a host is just creating may still yield: wait for it."""
        with trio.move_on_after(2 * SETTLE_S):
            while self._is_in_the_making(self._live.view.network_named(name)):
                await trio.sleep(SETTLE_POLL_S)
        return self._live.view.network_named(name)

    def _is_in_the_making(self, network: NetworkView | None) -> bool:
        return network is not None and self._is_undecided(network)

    async def _publish(self, record: NetworkRecord, request: NetworkRequest) -> NetworkView | None:
        """Return the network once it has settled; None when it yielded to another and a new attempt makes sense."""
        self.in_work.add(record.network_id)
        try:
            await self._publisher.put(record)
            try:
                await self._settle()
                await self._wait_for_losers(record)
                rival = self._rival(record)
                if rival is None:
                    await self._share_out(record)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._publisher.withdraw(record)
                raise
            if rival is not None:
                await self._publisher.withdraw(record)
        finally:
            self.in_work.discard(record.network_id)
        if rival is None:
            await self._settle()
            return self._standing(record)
        if rival.name == request.name or not (request.subnets and _overlap(rival.record, record)):
            return None
        raise RefusedError(
            f"the subnet {record.subnets[0]} was taken by network {rival.unique_name} at the same moment",
            code="subnet-in-use",
            thing=record.subnets[0],
            hint="use another one",
        )

    async def _wait_for_losers(self, record: NetworkRecord) -> None:
        """Wait until networks that yield to ours are withdrawn, or are in use because they were first."""
        with trio.move_on_after(SETTLE_S):
            while any(
                record.network_id < other.network_id and self._is_undecided(other)
                for other in self._meeting(record)
            ):
                await trio.sleep(SETTLE_POLL_S)

    def _is_undecided(self, network: NetworkView) -> bool:
        """True if another live host created it and may still withdraw it: it has not granted any of its space."""
        view = self._live.view
        host = view.hosts.get(network.owner)
        alive = host is not None and host.agent in {AgentState.ALIVE, AgentState.SUSPECT}
        return alive and network.owner != view.local and not view.is_used(network)

    def _rival(self, record: NetworkRecord) -> NetworkView | None:
        """Return the network created at the same time to which ours yields, if any."""
        view = self._live.view
        for other in self._meeting(record):
            if view.is_used(other) or other.network_id < record.network_id:
                return other
        return None

    def _meeting(self, record: NetworkRecord) -> list[NetworkView]:
        """Return networks that conflict with ours: of the same name, with its VNI, or overlapping it."""
        view = self._live.view
        others = [
            n for n in (*view.networks.values(), *view.yielded_networks) if n.network_id != record.network_id
        ]
        return [
            other
            for other in others
            if other.name == record.name or other.record.vni == record.vni or _overlap(other.record, record)
        ]

    def _standing(self, record: NetworkRecord) -> NetworkView:
        network = self._live.view.networks.get(record.network_id)
        if network is None:
            raise RefusedError(
                f"network {record.name} was removed at the same moment",
                code="network-removed",
                thing=record.name,
            )
        return network

    async def _share_out(self, record: NetworkRecord) -> None:
        view = self._live.view
        others = [h for h, host in view.hosts.items() if h != view.local and host.agent is AgentState.ALIVE]
        # A leaving host may already have handed over its space.
        hosts = sorted(h for h in others if not view.is_host_hidden(h))[:MAX_SHARED_OUT]
        grants = share_out(record.network_id, offset_count(record.subnets), hosts)
        if grants:
            await self._publisher.put(*grants)

    async def _settle(self) -> None:
        with trio.move_on_after(SETTLE_S):
            while self._records.unacknowledged(CLUSTER_SCOPE):
                await trio.sleep(SETTLE_POLL_S)

    # -- set -------------------------------------------------------------------------------------------------

    async def set(self, name: str, wanted: Mapping[NetworkOption, str], by: str) -> ChangedNetwork:
        """Give options of a network other values, for all hosts. What has its value already does not change."""
        async with self._changing:
            view = self._live.view
            network = network_called(view, name)
            former = {option: value_of(network.record, option) for option in wanted}
            former = {option: value for option, value in former.items() if value != wanted[option]}
            if not former:
                return ChangedNetwork(network, {}, frozenset())
            changes = {option: wanted[option] for option in former}
            refuse_change(view, network, changes)
            policy = NetworkOption.POLICY
            if former.get(policy) == Policy.OPEN.value and wanted[policy] == Policy.LINKS.value:
                # Every host notes the answers that flow before it refuses those that it knows nothing of.
                await self._write_options(network, {**changes, policy: Policy.AUDIT.value}, by)
                changes = {policy: Policy.LINKS.value}
                await trio.sleep(AUDIT_S)
            await self._write_options(network, changes, by)
            unheard = {HostId(one) for one in self._records.unacknowledged(CLUSTER_SCOPE)}
            words = ", ".join(f"{option.words} {wanted[option]}" for option in former)
            logger.info("network %s: %s set %s", network.unique_name, by, words)
            network = self._live.view.networks.get(network.network_id, network)
            return ChangedNetwork(network, former, frozenset(unheard))

    async def _write_options(
        self, network: NetworkView, values: Mapping[NetworkOption, str], by: str
    ) -> None:
        """Write this host's record with other values, and wait for the other hosts."""
        await self._publisher.put(options_record(self._live.view, network, values, by))
        await self._settle()

    # -- remove ----------------------------------------------------------------------------------------------

    async def remove(self, name: str, *, force: bool) -> NetworkView:
        """Remove a network for good. RefusedError, which names them, when it has live endpoints, unless `force`."""
        network = network_called(self._live.view, name)
        if not force:
            await self._sweep(network.network_id)
            await self._refuse_if_used(network)
        await self._publisher.put(RemovalRecord(network.network_id))
        await self._settle()
        gone = event(EventKind.NETWORK, network.unique_name)
        logger.info("removed network %s", network.unique_name, extra=gone)
        return network

    async def prune(self) -> list[NetworkView]:
        """Remove every network without endpoints; endpoints of hosts that are gone do not count."""
        removed = []
        for network in sorted(self._live.view.networks.values(), key=lambda network: network.unique_name):
            try:
                removed.append(await self.remove(network.network_id, force=False))
            except (RefusedError, NotFoundError):
                continue  # in use, or another host has just removed it
        return removed

    async def _refuse_if_used(self, network: NetworkView) -> None:
        await self._participation.look_into(network.network_id)
        try:
            view = self._live.view
            used = [
                e for e in view.endpoints_in(network.network_id).values() if not view.is_host_hidden(e.owner)
            ]
        finally:
            self._participation.look_away(network.network_id)
        if unheard := _unheard(view, network.network_id):
            hosts = ", ".join(sorted(view.hosts[one].unique_name for one in unheard))
            raise RefusedError(
                f"whether network {network.unique_name} is in use is known only on {hosts}, "
                "and no agent answers there",
                code="network-not-known",
                thing=network.unique_name,
                hint="start an agent there, or add --force to cut off containers that may be in it",
            )
        if used:
            raise RefusedError(
                f"network {network.unique_name} is in use by {_named(view, used)}",
                code="network-in-use",
                thing=network.unique_name,
                hint="detach them, or add --force to cut them off",
            )
        if added := sorted(added_to(view, network.network_id) | _given_addresses(view, network.network_id)):
            more = f" and {len(added) - 5} more" if len(added) > 5 else ""
            raise RefusedError(
                f"operators added {', '.join(added[:5])}{more} to network {network.unique_name}",
                code="network-in-use",
                thing=network.unique_name,
                hint="remove them with `netagent service rm` and `netagent name rm`, or add --force",
            )


def _given_addresses(view: RegistryView, network_id: NetworkId) -> set[str]:
    """Return the names of the services to which operators gave an address."""
    return {
        service.name
        for service, views in view.service_addresses(network_id).items()
        if any(one.record.origin is ServiceAddressOrigin.OPERATOR for one in views)
    }


def _unheard(view: RegistryView, network_id: NetworkId) -> list[HostId]:
    """Return hosts that may still run containers in the network although no live host has the records: their agents
    are dead but their kernels answer. Empty if this host or a live one is in the network and so has the records."""
    attached = view.attachments(network_id)
    if view.local in attached or any(host.is_live for h in attached if (host := view.hosts.get(h))):
        return []
    dead = [h for h in attached if (host := view.hosts.get(h)) and host.agent is AgentState.DEAD]
    return [host_id for host_id in dead if not view.is_host_hidden(host_id)]


def options_record(
    view: RegistryView, network: NetworkView, values: Mapping[NetworkOption, str], by: str
) -> NetworkOptionsRecord:
    """Return this host's record with other values of options."""
    claims, now_s = view.option_records(network.network_id), int(time.time())
    changes = [
        OptionChange(
            option,
            value,
            next_number(claims, option),
            now_s,
            by,
            overruled_by_next(claims, option),
        )
        for option, value in values.items()
    ]
    return NetworkOptionsRecord(network.network_id, with_changes(claims.get(view.local), changes))


def refuse_change(view: RegistryView, network: NetworkView, wanted: Mapping[NetworkOption, str]) -> None:
    """Raise RefusedError for a change that contradicts other options, or cuts off what operators have added."""
    place = network.unique_name
    after = with_options(network.record, wanted)
    for option in (NetworkOption.MULTICAST, NetworkOption.HOST_ACCESS):
        asked = wanted.get(option, value_of(network.record, option))
        if after.policy is Policy.LINKS and asked == "yes":
            raise RefusedError(
                f"network {place} cannot have {option.words} yes with --policy links, which allows only linked "
                "services",
                code="options-exclude-each-other",
                thing=place,
                hint=f"add {option.words} no, or use another policy",
            )
    internal = wanted.get(NetworkOption.INTERNAL, value_of(network.record, NetworkOption.INTERNAL)) == "yes"
    if internal and wanted.get(NetworkOption.EGRESS, value_of(network.record, NetworkOption.EGRESS)) != OPEN:
        raise RefusedError(
            f"network {place} cannot be internal and have an egress: containers of an internal network connect "
            "nowhere outside",
            code="options-exclude-each-other",
            thing=place,
            hint="add --egress open, or --internal no",
        )
    services = external_services(view, network.network_id)
    cut_off = [
        one.record.name for one in services if _would_cut_off(network.record, after, one.record.target)
    ]
    if cut_off:
        more = f" and {len(cut_off) - 3} more" if len(cut_off) > 3 else ""
        raise RefusedError(
            f"containers of network {place} could not reach {', '.join(sorted(cut_off)[:3])}{more} any more, "
            "which operators added to it",
            code="network-in-use",
            thing=place,
            hint=f"remove them first with `netagent service rm NAME --network {place}`",
        )
    published = sorted(
        {one.service.name for one in view.store.published_services.get(network.network_id, {}).values()}
    )
    if published and after.internal and not network.record.internal:
        more = f" and {len(published) - 3} more" if len(published) > 3 else ""
        raise RefusedError(
            f"clients outside could not reach {', '.join(published[:3])}{more} of network {place} any more, "
            "which operators published",
            code="network-in-use",
            thing=place,
            hint=f"first `netagent unpublish --service NAME PORT:PORT --network {place}`, where it was published",
        )


def _would_cut_off(before: NetworkRecord, after: NetworkRecord, target: ServiceTarget) -> bool:
    """True if containers can reach this outside service before a change of the network, and not after it. What the
    addresses of a name are is not known here."""
    match target:
        case HostProgram():
            return before.host_access and not after.host_access
        case FixedAddresses(addresses):
            return (after.internal and not before.internal) or any(
                may_reach(before.egress, one.address, one.port)
                and not may_reach(after.egress, one.address, one.port)
                for one in addresses
            )
        case DnsName():
            return after.internal and not before.internal


def _if_equal(existing: NetworkView, request: NetworkRequest) -> NetworkView:
    found = differences(request, existing.record)
    if found:
        raise RefusedError(
            f"network {request.name} already exists, and {', '.join(found)}",
            code="network-exists",
            thing=request.name,
            hint="use another name, or the options it has",
        )
    return existing


def _overlap(one: NetworkRecord, other: NetworkRecord) -> bool:
    pairs = ((ip_network(a), ip_network(b)) for a in one.subnets for b in other.subnets)
    return any(a.version == b.version and a.overlaps(b) for a, b in pairs)


def _named(view: RegistryView, endpoints: list[EndpointView]) -> str:
    names = sorted(f"{e.record.name} on {host_called(view, e.owner)}" for e in endpoints)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
