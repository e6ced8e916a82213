"""What this host finds out about one external service: its checks, its DNS name, whether it is renewed. No I/O.

It begins with what was found out before, by whichever host, and what it says replaces that only where it differs: so
a change of the host that asks changes no answer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from netagent.checks.spec import parse_checks_untrusted
from netagent.checks.state import EndpointHealth, Outcome
from netagent.errors import InputError
from netagent.external.view import ExternalService
from netagent.model.allowed import outside_flaw
from netagent.model.check import Check, CheckedHealth, ExecCheck
from netagent.model.records import (
    MAX_ADDRESSES,
    MAX_DNS_TTL_S,
    AddressState,
    DnsName,
    ExternalStateRecord,
    Health,
    HealthNote,
    Resolution,
)
from netagent.model.subnet import parse_subnet
from netagent.registry.external_fields import in_order
from netgossip.deadlines import NEVER

MIN_RESOLVE_S: Final = 5.0
"""However short the TTL: the time that clients of a container keep its address."""
MAX_RESOLVE_S: Final = 3600.0
FIRST_RETRY_S: Final = 5.0
MAX_RETRY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """What a name server said about a name."""

    addresses: tuple[tuple[str, int], ...]
    """Each with its TTL in seconds."""
    exists: bool = True


class ServiceWatch:
    """One service, for as long as this host asks for it."""

    def __init__(self, service: ExternalService, now: float, unix_s: int) -> None:
        self.service = service
        self.checks = checks_of(service)
        self._health: dict[str, EndpointHealth] = {}
        found = service.found
        self.resolution = found.resolution if found is not None else None
        self.expired_s = found.expired_s if found is not None else None
        self._expires_at = NEVER
        self._retry_s = FIRST_RETRY_S
        if service.record.ttl_s is not None and self.expired_s is None:
            # From now: when it was renewed last is known to no other host.
            self._expires_at = now + service.record.ttl_s
        self.follow(service, now, unix_s)

    def follow(self, service: ExternalService, now: float, unix_s: int) -> None:
        """Take in where the service is now."""
        self.service = service
        if not self.checks:
            return
        found = service.found
        known = {one.address: one for one in found.states} if found is not None else {}
        addresses = dict.fromkeys(one.place.address for one in service.addresses)
        self._health = {
            address: self._health.get(address)
            or EndpointHealth(self.checks, _checked(known.get(address)), now, unix_s)
            for address in addresses
        }

    @property
    def addresses(self) -> Collection[str]:
        """The addresses that are checked."""
        return self._health.keys()

    @property
    def name(self) -> str | None:
        """The DNS name to resolve; None: there is none."""
        target = self.service.record.target
        return target.name if isinstance(target, DnsName) else None

    # -- inputs --------------------------------------------------------------------------------------------------

    def handle_outcome(self, address: str, number: int, outcome: Outcome, now: float, unix_s: int) -> None:
        """Take in the answer to a check at an address."""
        health = self._health.get(address)
        if health is not None:
            health.handle_outcome(number, outcome, now, unix_s)

    def handle_answer(self, answer: DnsAnswer | None, subnets: Iterable[str]) -> None:
        """Take in what a name server said; None: none answered, so the last answer stands. `subnets`: of all
        networks. Names outside must not lead to addresses there, nor to loopback, a link, or a cloud's metadata."""
        if answer is None:
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
            return
        self._retry_s = FIRST_RETRY_S
        ttl_s = min([MAX_DNS_TTL_S, *(ttl_s for _, ttl_s in answer.addresses)])
        inside = [parse_subnet(text) for text in subnets]
        allowed: list[str] = []
        refused: list[str] = []
        for address, _ in answer.addresses:
            (refused if _is_refused(address, inside) else allowed).append(address)
        kept = in_order(allowed)[:MAX_ADDRESSES]
        reason = ""
        if refused:
            reason = f"the answer has {refused[0]}, where no name outside may lead"
        elif not answer.exists:
            reason = "the name does not exist"
        elif not kept:
            reason = "the name has no address"
        before = self.resolution
        if before is not None and (before.addresses, before.reason) == (kept, reason):
            ttl_s = max(ttl_s, before.ttl_s)  # what a cache has left of it is no news
        self.resolution = Resolution(kept, ttl_s if kept else 0, reason)

    def renew(self, now: float) -> None:
        """An operator's program has renewed the service."""
        if self.service.record.ttl_s is not None:
            self.expired_s, self._expires_at = None, now + self.service.record.ttl_s

    def handle_deadline(self, now: float, unix_s: int) -> None:
        """Do what is due."""
        if now >= self._expires_at:
            self.expired_s, self._expires_at = unix_s, NEVER

    # -- what follows --------------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> float:
        """When to call `handle_deadline`."""
        return self._expires_at

    def check_interval_s(self, address: str, number: int, now: float) -> float:
        """How long after it was last asked a check is asked again."""
        health = self._health.get(address)
        return self.checks[number].interval_s if health is None else health.interval_s(number, now)

    def resolve_interval_s(self, *, failed: bool) -> float:
        """How long after the last query the name is resolved again."""
        if failed or self.resolution is None or not self.resolution.addresses:
            return self._retry_s
        return min(max(float(self.resolution.ttl_s), MIN_RESOLVE_S), MAX_RESOLVE_S)

    def wanted(self) -> ExternalStateRecord | None:
        """Return the state to publish; None: the one in force says it already, or there is nothing to say."""
        record, found = self.service.record, self.service.found
        # An address that is starting is what the others take it for anyway.
        states = tuple(
            AddressState(address, one.checked.health, one.checked.note.since_s, one.checked.note.reason)
            for address, one in self._health.items()
            if one.checked.health is not Health.STARTING
        )
        states = tuple(sorted(states, key=lambda one: in_order_key(one.address)))
        content = (states, self.resolution, self.expired_s)
        if content == (
            ((), None, None) if found is None else (found.states, found.resolution, found.expired_s)
        ):
            return None
        return ExternalStateRecord(record.service_id, record.network_id, 0, *content)


def in_order_key(address: str) -> tuple[int, int]:
    """Sort key of addresses: IPv4 first, each family by value."""
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


def checks_of(service: ExternalService) -> tuple[Check, ...]:
    """Return the checks that this release understands."""
    try:
        found = parse_checks_untrusted(service.record.checks)
    except InputError:
        return ()
    return tuple(one for one in found if not isinstance(one.subject, ExecCheck))


def _checked(said: AddressState | None) -> CheckedHealth | None:
    if said is None or said.health is Health.UNKNOWN:
        return None
    return CheckedHealth(said.health, HealthNote(said.since_s, said.reason))


_METADATA: Final = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "fd00:ec2::254")))
"""Where clouds give out credentials, beside 169.254.169.254."""
_CARRIERS: Final = ((ipaddress.IPv6Network("64:ff9b::/96"), 0), (ipaddress.IPv6Network("2002::/16"), 80))
"""IPv6 addresses that lead to an IPv4 address, by NAT64 (RFC 6052) and 6to4 (RFC 3056); how many bits follow it."""
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
"""Addresses of a transition that is over (RFC 4291 section 2.5.5.1): they lead nowhere, or to this host."""


def _is_refused(address: str, inside: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        for carrier, bits_after in _CARRIERS:
            if parsed in carrier:
                carried = ipaddress.IPv4Address(int(parsed) >> bits_after & 0xFFFF_FFFF)
                return _is_refused(str(carried), inside)
        if parsed in _COMPATIBLE:
            return True
    return (
        bool(outside_flaw(address))
        or parsed in _METADATA
        or any(subnet.version == parsed.version and parsed in subnet for subnet in inside)
    )
