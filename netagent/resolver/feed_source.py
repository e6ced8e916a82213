"""What the resolver process knows for feeds, and which networks' feeds containers have asked for. No I/O.

The agent sends FEED rows of a network only once a container has asked for a feed of it (`want`), and they count once
the change that brought the last of them is complete (`commit`): until then a feed would be short, and its reader
would take sites down. A container sees the networks that its sandbox is in, as for names.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from netagent.feeds.packed import PackedError, unpack_endpoint_untrusted
from netagent.feeds.table import (
    FeedEndpoint,
    FeedNetwork,
    FeedServiceAddress,
    FeedState,
    FeedTable,
    sorted_by_id,
)
from netagent.model.ids import NetworkId
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.name_table import (
    SETTINGS_KEY,
    Change,
    ExternalRow,
    FeedRow,
    NetworkRow,
    RowKind,
    ServiceAddressRow,
    SettingsRow,
)
from netagent.resolver.zone_source import DEFAULT_DOMAIN, ZoneSource
from netgossip.slices import Slices

Networks: TypeAlias = tuple[NetworkId, ...]

FEED_ADDRESS: Final = ("127.0.0.11", 7953)
"""Where a container asks for feeds: the address of its resolver, and a port that no known program has."""

MAX_WANTED: Final = 4096
"""Bound of networks whose feeds are wanted; beyond it: further ones have none. A sandbox has as many at most."""


class IncompleteError(Exception):
    """This host does not know yet, or no longer, all that is in a network."""


def external_endpoints(row: ExternalRow, network: FeedNetwork) -> Iterator[FeedEndpoint]:
    """Yield the addresses of a service that is no container, to which names lead, as endpoints."""
    for one in row.addresses():
        yield FeedEndpoint(
            endpoint_id=one.endpoint_id,
            network=network,
            name=one.name,
            service=one.service,
            host=one.host_label,
            addresses=tuple(str(ipaddress.ip_address(address)) for address in one.addresses),
            ports=one.ports,
            state=FeedState.UNREACHED if one.is_behind else FeedState.UP,
            weight=one.weight,
        )


class FeedSource:
    """The FEED rows by network. `source` has the other rows."""

    def __init__(self, source: ZoneSource) -> None:
        self._source = source
        self._packed: dict[NetworkId, dict[str, bytes]] = {}
        self._network_of: dict[str, NetworkId] = {}
        self._external: dict[str, ExternalRow] = {}
        """Services that are no containers, of all networks: operators add them one by one."""
        self._own: dict[NetworkId, dict[str, ServiceAddressRow]] = {}
        """Services' own addresses, by the identifiers of the rows."""
        self._versions: dict[NetworkId, int] = {}
        self._complete: set[NetworkId] = set()
        self._arriving: set[NetworkId] = set()
        self._counter = 0
        self._networks_in: dict[str, Networks] = {}
        self._sandboxes: Counter[NetworkId] = Counter()
        """How many sandboxes are in each network."""
        self.wanted: frozenset[NetworkId] = frozenset()
        """Networks whose feeds containers have asked for, and that have a container. Each change gives another
        object."""

    # --- changes ------------------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply changes of the table. What they are of other kinds costs a look."""
        for (kind, identifier), row in changes:
            match kind:
                case RowKind.FEED:
                    self._put(identifier, row if isinstance(row, FeedRow) else None)
                case RowKind.EXTERNAL:
                    self._set_external(identifier, row if isinstance(row, ExternalRow) else None)
                case RowKind.SERVICE_ADDRESS:
                    self._set_own(identifier, row if isinstance(row, ServiceAddressRow) else None)
                case RowKind.NETWORK:
                    self._set_network(NetworkId(identifier), row if isinstance(row, NetworkRow) else None)
                case RowKind.SANDBOX:
                    self._counter += 1
                    self._set_networks(identifier, row.networks if isinstance(row, Sandbox) else ())
                case RowKind.SETTINGS:
                    self._counter += 1  # the domain is another one: the version of each feed differs

    def commit(self) -> None:
        """Note that the change which the last rows belong to is complete."""
        if self._arriving:
            self._complete |= self._arriving
            self._arriving.clear()
            self._counter += 1

    def _put(self, endpoint_id: str, row: FeedRow | None) -> None:
        before = self._network_of.pop(endpoint_id, None)
        if before is not None:
            del self._packed[before][endpoint_id]
            self._touch(before)
        if row is not None:
            self._network_of[endpoint_id] = row.network_id
            self._packed.setdefault(row.network_id, {})[endpoint_id] = row.packed
            self._touch(row.network_id)

    def _set_external(self, service_id: str, row: ExternalRow | None) -> None:
        before = self._external.pop(service_id, None)
        if row is not None:
            self._external[service_id] = row
        for one in (before, row):
            if one is not None:
                self._touch(one.network_id)

    def _set_own(self, identifier: str, row: ServiceAddressRow | None) -> None:
        # The network is the first part of the identifier, as the rows are made (ServiceAddressRow.key).
        network_id = NetworkId(identifier.partition("/")[0])
        known = self._own.setdefault(network_id, {})
        if row is None:
            known.pop(identifier, None)
        else:
            known[identifier] = row
        if not known:
            del self._own[network_id]
        self._touch(network_id)

    def _set_networks(self, sandbox_id: str, networks: Networks) -> None:
        before = self._networks_in.pop(sandbox_id, ())
        if networks:
            self._networks_in[sandbox_id] = networks
            self._sandboxes.update(set(networks))
        left = set()
        for network_id in set(before):
            self._sandboxes[network_id] -= 1
            if not self._sandboxes[network_id]:
                del self._sandboxes[network_id]
                left.add(network_id)
        if not self.wanted.isdisjoint(left):
            self.wanted -= left

    def _set_network(self, network_id: NetworkId, row: NetworkRow | None) -> None:
        if row is None or not row.has_feeds:
            self._complete.discard(network_id)
            self._arriving.discard(network_id)
        elif network_id not in self._complete:
            self._arriving.add(network_id)
        self._touch(network_id)

    def _touch(self, network_id: NetworkId) -> None:
        self._counter += 1
        self._versions[network_id] = self._counter
        if not self._packed.get(network_id):
            self._packed.pop(network_id, None)
            if (RowKind.NETWORK, network_id) not in self._source.rows:
                self._versions.pop(network_id, None)

    # --- questions ----------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Changes with every change of any feed."""
        return self._counter

    def networks_of(self, sandbox_id: SandboxId) -> Networks:
        """Return the networks that a sandbox is in."""
        row = self._source.rows.get((RowKind.SANDBOX, sandbox_id))
        return row.networks if isinstance(row, Sandbox) else ()

    def want(self, networks: Networks) -> bool:
        """Want the feeds of these networks; return whether they were not wanted before."""
        new = set(networks) - self.wanted
        if not new or len(self.wanted) + len(new) > MAX_WANTED:
            return False
        self.wanted |= new
        return True

    def is_complete(self, networks: Networks) -> bool:
        """True if all that there is in these networks is known; false for none."""
        return bool(networks) and self._complete.issuperset(networks)

    def version_of(self, networks: Networks) -> tuple[object, ...]:
        """Return what changes whenever a feed of these networks does."""
        domain = self._source.rows.get(SETTINGS_KEY)
        return domain, *((one, self._versions.get(one)) for one in networks)

    def untranslated(self, sandbox_id: SandboxId) -> list[str]:
        """Return the names of the sandbox's networks that have services with addresses of their own, which the kernel
        does not translate for its programs."""
        box = self._source.rows.get((RowKind.SANDBOX, sandbox_id))
        rows = {
            one: self._source.rows.get((RowKind.NETWORK, one))
            for one in self.networks_of(sandbox_id)
            if one in self._own and isinstance(box, Sandbox) and one not in box.translates
        }
        return [row.label if isinstance(row, NetworkRow) else one for one, row in rows.items()]

    def _own_addresses(
        self, network_id: NetworkId, network: FeedNetwork
    ) -> Iterator[tuple[tuple[str, ...], FeedServiceAddress]]:
        """Yield the own addresses that names lead to, by the keys of their services."""
        rows = self._own.get(network_id, {})
        for identifier in sorted(rows, reverse=True):  # the first one of a service comes last, and stays
            row = rows[identifier]
            name, group = row.service
            addresses = tuple(str(ipaddress.ip_address(one)) for one in sorted(row.addresses, key=len))
            if addresses and not row.is_refused:
                key = (name, network.name) if group is None else (name, group, network.name)
                yield key, FeedServiceAddress(addresses, row.ports)

    def table(self, networks: Networks, url: str) -> Slices[FeedTable]:
        """Return what a feed of these networks is made of, of each network as it is at one moment. Raises
        IncompleteError."""
        if not self.is_complete(networks):
            raise IncompleteError
        settings = self._source.rows.get(SETTINGS_KEY)
        domain = settings.domain if isinstance(settings, SettingsRow) else DEFAULT_DOMAIN
        shown: list[FeedNetwork] = []
        endpoints: list[FeedEndpoint] = []
        own: dict[tuple[str, ...], FeedServiceAddress] = {}
        for network_id in networks:
            row = self._source.rows.get((RowKind.NETWORK, network_id))
            if not isinstance(row, NetworkRow) or network_id not in self._complete:
                raise IncompleteError
            network = FeedNetwork(row.label, f"{row.label}.{domain}", row.feed_rules)
            shown.append(network)
            own.update(self._own_addresses(network_id, network))
            for endpoint_id, packed in tuple(self._packed.get(network_id, {}).items()):
                # Bytes that are none come from a fault: names have the endpoint nevertheless.
                with contextlib.suppress(PackedError):
                    endpoints.append(unpack_endpoint_untrusted(endpoint_id, network, packed))
                yield
            for external in tuple(self._external.values()):
                if external.network_id == network_id:
                    endpoints += external_endpoints(external, network)
                yield
        return FeedTable(tuple(shown), tuple((yield from sorted_by_id(endpoints))), url, own)
