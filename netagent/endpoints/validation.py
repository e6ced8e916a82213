"""What an attach asks for: the endpoint that it would make, and checks of conflicts with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from netagent.checks.state import first_health
from netagent.endpoints.find import host_called
from netagent.errors import ForbiddenError, RefusedError
from netagent.journal.rows import Bound, LocalEndpointRow, Reserved
from netagent.model.check import Check, CheckedHealth, ExecCheck
from netagent.model.ids import EndpointId, NetworkId, is_derived_mac, mac_of
from netagent.model.records import Health, Link
from netagent.model.request import AttachRequest
from netagent.model.sandbox import Netns, Sandbox, SandboxId
from netagent.model.subnet import addresses_of, offset_of, parse_subnet
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView, RegistryView


@dataclasses.dataclass(frozen=True, slots=True)
class WaysOut:
    """What networks allow their containers outside the cluster."""

    internal: frozenset[NetworkId]
    """They have no way out."""
    limited: frozenset[NetworkId]
    """They have an egress: the way out must lead through netagent, whose rules hold it."""


def ways_out(networks: Mapping[NetworkId, NetworkView]) -> WaysOut:
    """Return what these networks allow."""
    return WaysOut(
        frozenset(one for one, network in networks.items() if network.record.internal),
        frozenset(one for one, network in networks.items() if network.record.egress is not None),
    )


def sandboxes(rows: Iterable[LocalEndpointRow], internal: frozenset[NetworkId]) -> dict[SandboxId, Sandbox]:
    """Return the sandboxes of this host's endpoints, given in attach order. `internal` networks have no egress."""
    by_sandbox: dict[SandboxId, list[LocalEndpointRow]] = {}
    for row in rows:
        if row.sandbox_id is not None:
            by_sandbox.setdefault(row.sandbox_id, []).append(row)
    return {
        one: Sandbox(
            sandbox_id=one,
            networks=tuple(dict.fromkeys(row.network_id for row in members)),
            links=tuple(dict.fromkeys(link for row in members for link in row.links)),
            group=next((row.group.name for row in members if row.group), None),
            forward=any(row.network_id not in internal for row in members),
        )
        for one, members in by_sandbox.items()
    }


def has_default_route(row: LocalEndpointRow, rows: Iterable[LocalEndpointRow], out: WaysOut) -> bool:
    """True if this endpoint carries the sandbox's default route: the first attached one whose network is not
    internal. A runtime that puts its own resolver into the sandbox sets the default route there itself, unless one of
    the networks has an egress: then it is told to set none."""
    if row.netns is None:
        return False
    mates = [one for one in rows if one.sandbox_id == row.sandbox_id and one.network_id not in out.internal]
    if row.netns.behind_runtime and out.limited.isdisjoint(one.network_id for one in mates):
        return False
    return bool(mates) and mates[0].endpoint_id == row.endpoint_id


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewEndpoint:
    """An endpoint that is to be attached: what was asked for, completed, and where. It has no address yet."""

    endpoint_id: EndpointId
    network: NetworkView
    request: AttachRequest
    netns: Netns | None = None
    """None: a runtime names it later."""
    origin: str | None = None
    health: Health = Health.UNKNOWN

    @classmethod
    def named(cls, name: str, *, request: AttachRequest, **others: Any) -> NewEndpoint:
        """Complete the request with `name`, unless it has a name."""
        name = request.name or name
        aliases = tuple(sorted(set(request.aliases)))
        request = dataclasses.replace(request, name=name, service=request.service or name, aliases=aliases)
        return cls(request=request, **others)

    def at(self, offset: int, unix_s: int) -> LocalEndpointRow:
        """Return its row with the address at this offset; `unix_s` is the time."""
        request, network_id = self.request, self.network.network_id
        return LocalEndpointRow(
            endpoint_id=self.endpoint_id,
            network_id=network_id,
            name=request.name,
            service=request.service,
            offset=offset,
            addresses=addresses_of(self.network.record.subnets, offset),
            mac=request.mac or mac_of(network_id, offset),
            target=request.target,
            stage=Reserved() if self.netns is None else Bound(self.netns, request.ifname or None),
            links=request.links,
            aliases=request.aliases,
            ports=request.ports,
            weight=request.weight,
            labels=request.labels,
            publish=request.publish,
            checks=request.checks,
            keeps_names=request.keeps_names,
            checked=health_of_new(request.checks, unix_s),
            health=self.health,
            group=request.group,
            origin=self.origin,
        )


def health_of_new(checks: Sequence[Check], unix_s: int) -> CheckedHealth | None:
    """Return what is known of an endpoint that gets these checks now."""
    return first_health(checks, unix_s) if checks else None


_OPTIONS: Final = {
    "--name": "name",
    "--service": "service",
    "--group": "group",
    "--alias": "aliases",
    "--expose": "ports",
    "--weight": "weight",
    "--label": "labels",
    "--publish": "publish",
    "--check": "checks",
    "--all-failing": "keeps_names",
}
"""Option -> field of an endpoint. A request without the option means the default, not the value of an earlier one."""


def existing_endpoint(mates: Iterable[LocalEndpointRow], new: NewEndpoint) -> LocalEndpointRow | None:
    """Return the endpoint that the request would make, if its sandbox has it. RefusedError if it has it with other
    options."""
    request = new.request
    for row in mates:
        if row.network_id != new.network.network_id:
            continue
        others = _other_options(row, request)
        if not others and row.is_published:
            return row
        otherwise = f", with another {' and '.join(others)}" if others else ""
        raise RefusedError(
            f"{request.target} is already in network {request.network}, as {row.name} "
            f"({', '.join(row.addresses)}){otherwise}",
            code="already-attached",
            thing=request.target,
            hint=f"`netagent detach {row.name}` first",
        )
    return None


def _other_options(row: LocalEndpointRow, request: AttachRequest) -> list[str]:
    """Return the options of `attach` whose result would differ from the existing endpoint."""
    others = [option for option, one in _OPTIONS.items() if getattr(row, one) != getattr(request, one)]
    if not set(request.links) <= set(row.links):
        others.append("--link")
    if not set(request.addresses) <= set(row.addresses):
        others.append("--ip")
    if request.ifname not in {"", row.ifname}:
        others.append("--ifname")
    if request.mac not in {"", row.mac}:
        others.append("--mac")
    return others


def repeated(known: LocalEndpointRow, new: NewEndpoint) -> LocalEndpointRow:
    """Return the endpoint that the same call of a runtime made before. RefusedError when it has another place, or is
    half removed."""
    is_here = known.netns is not None and known.netns.is_same_as(new.netns)
    if is_here and known.network_id == new.network.network_id and known.is_published:
        return known
    raise RefusedError(
        f"{new.request.target} was attached before, as {known.name}, and has not been detached",
        code="already-attached",
        thing=new.request.target,
        hint=f"`netagent detach {known.name}` first",
    )


def refuse_alias_in_use(rows: Iterable[LocalEndpointRow], link: Link) -> None:
    """Raise RefusedError when the alias already means another service in the sandbox, whose endpoints these are."""
    for row in rows:
        for known in row.links:
            if known.alias == link.alias and known != link:
                raise RefusedError(
                    f"in the container of {row.name} the alias {link.alias!r} already means {known.service}",
                    code="alias-in-use",
                    thing=link.alias,
                    hint=f"`netagent unlink {row.name} {known.service}:{known.alias}` first",
                )


RUNS_COMMANDS: Final = frozenset({"docker", "podman"})
"""What the origins and targets of containers begin with whose runtime runs a command in them."""


def refuse_commands(request: AttachRequest, origin: str | None) -> None:
    """Raise RefusedError for a check that is a command, where no runtime could run it in the container."""
    if (origin or request.target).partition(":")[0] in RUNS_COMMANDS:
        return
    for check in request.checks:
        if isinstance(check.subject, ExecCheck):
            raise RefusedError(
                f"the check {check.subject.command[0]} cannot be run: {request.target} has no runtime that runs "
                "commands in it",
                code="no-runtime",
                thing=request.target,
                hint="use a check by http: or tcp:",
            )


def refuse_beyond(within: frozenset[NetworkId] | None, mates: Iterable[LocalEndpointRow]) -> None:
    """Raise ForbiddenError if the sandbox is in a network that the asker does not reach: through the container it
    would reach it, and change where the container's traffic goes."""
    if within is not None and any(row.network_id not in within for row in mates):
        raise ForbiddenError(
            "the container is in a network that the token does not reach",
            hint="ask with a token that is not limited to networks",
        )


def asked_offset(view: RegistryView, addresses: tuple[str, ...], network: NetworkView) -> int | None:
    """Return the requested offset in the subnets; None when none is requested. RefusedError if it is in use."""
    if not addresses:
        return None
    found: set[int] = set()
    for address in addresses:
        holder = view.endpoint_by_address(address, network.network_id)
        if holder is not None:
            host = host_called(view, holder.owner)
            raise RefusedError(
                f"the address {address} belongs to {holder.record.name} on host {host}",
                code="address-in-use",
                thing=address,
                hint="use another --ip, or none",
            )
        found.add(offset_in(network, address))
    if len(found) > 1:
        raise RefusedError(
            f"{' and '.join(addresses)} do not have the same offset in their subnets",
            code="bad-address",
            thing=addresses[0],
            hint="give one of them; the other follows from it",
        )
    return found.pop()


def refuse_mac_in_use(live: StateStore, new: NewEndpoint, offset: int | None) -> None:
    """Raise RefusedError when an endpoint of the network has the requested MAC, or when an address other than
    `offset` would derive it."""
    view, mac, network_id = live.view, new.request.mac, new.network.network_id
    if not mac:
        return
    known = [(e.record.name, e.record.mac, e.owner) for e in view.endpoints_in(network_id).values()]
    known += [(row.name, row.mac, view.local) for row in live.rows.in_network(network_id).values()]
    for name, theirs, owner in known:
        if theirs == mac:
            raise _mac_in_use(mac, f"{name} on host {host_called(view, owner)}")
    is_own = offset is not None and mac == mac_of(network_id, offset)
    if is_derived_mac(network_id, mac) and not is_own:
        raise _mac_in_use(mac, "an address of this network")


def _mac_in_use(mac: str, whose: str) -> RefusedError:
    hint = "use another --mac, or none"
    return RefusedError(f"the MAC {mac} belongs to {whose}", code="mac-in-use", thing=mac, hint=hint)


def offset_in(network: NetworkView, address: str) -> int:
    """Return the offset of an address in the network's subnets."""
    for subnet in network.record.subnets:
        parsed = parse_subnet(subnet)
        try:
            offset = int(parsed.network_address.__class__(address)) - int(parsed.network_address)
        except ValueError:
            continue
        if 0 <= offset < 2**32 and offset_of((subnet,), (address,)) == offset:
            return offset
    raise RefusedError(
        f"{address} is not a usable address of network {network.unique_name} ({', '.join(network.record.subnets)})",
        code="bad-address",
        thing=address,
        hint="use one within the subnet, but not the first two or the last",
    )


def fenced_by(fenced: Mapping[EndpointId, LocalEndpointRow], row: LocalEndpointRow) -> list[EndpointId]:
    """Return the notes that an endpoint replaces: those of its sandbox, or of its name, in its network."""
    return [
        key
        for key, known in fenced.items()
        if known.network_id == row.network_id
        and (known.netns_identity == row.netns_identity or known.name == row.name)
    ]
