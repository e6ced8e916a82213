"""Joining: all known members are asked at once to redeem a token, and the first that admits this host counts.

Hosts of a cluster are reached by one family of addresses, so only those members are asked that could reach this host
(`LocalAddresses`). The agent carries out what follows from being admitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from netagent.datapath.host.uplink import LocalAddresses, Underlay, is_fixed, version_of
from netagent.errors import FailedError, RefusedError
from netagent.membership.seeds import UnknownHostError, look_up
from netgossip.join.admission import Credentials
from netgossip.join.driver import EntryError, redeem
from netgossip.join.identity import Identity
from netgossip.join.invitation import Token
from netgossip.types import Address

MEMBERS_AT_ONCE: Final = 16
"""Bound of members that `join` asks at the same time; beyond it: further ones wait; none is asked after 20 s. All
that a token names, and some neighbours."""
ALL_S: Final = 20.0
"""For all together. Each that does not answer takes half of it."""
AGAIN_S: Final = 1.0
"""After that a member is asked again which cannot admit hosts for the moment."""
REFUSED_S: Final = 3.0
"""Once one has refused, others have this long to answer: a running agent answers in two round trips."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A member has admitted this host."""

    credentials: Credentials
    member: str
    """The member's address."""
    underlay: Underlay
    """The underlay that this host must use in the cluster."""


async def addresses_given(texts: Iterable[str], record_port: int) -> list[Address]:
    """Resolve `HOST[:PORT]` texts of a user to addresses of record ports. FailedError for an unknown host."""
    try:
        return [address for text in texts for address in await look_up(text, record_port)]
    except UnknownHostError as error:
        raise FailedError(str(error), thing=error.host, hint="give an IP address") from None


async def be_admitted(
    members: Sequence[Address],
    token: Token,
    *,
    identity: Identity,
    name: str,
    local_addresses: Callable[[], LocalAddresses],
) -> Admission:
    """Ask the members at these record ports, MEMBERS_AT_ONCE at a time. `local_addresses` is called again and again:
    a host's addresses may change while a member does not answer.

    Raises RefusedError `underlay-family` without asking any; `not-admitted` when one refused, `not-admitted-yet` when
    one cannot admit hosts for the moment; FailedError `member-unreachable`. The error contains their answers, each
    reason once.
    """
    if members and not any(local_addresses().towards(host) for host, _ in members):
        raise _of_other_family(token, [host for host, _ in members], local_addresses())
    admitted: list[Admission] = []
    errors: dict[Address, EntryError] = {}
    places = trio.CapacityLimiter(MEMBERS_AT_ONCE)
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + ALL_S

        async def redeem_in_time(address: Address) -> Credentials:
            while True:
                try:
                    return await redeem(address, token, identity, name)
                except EntryError as error:
                    if not error.passing:
                        raise
                    errors[address] = error  # what is told if the time for all runs out
                await trio.sleep(AGAIN_S)

        async def ask(address: Address) -> None:
            async with places:
                underlay = local_addresses().towards(address[0])
                if underlay is None:
                    return
                try:
                    credentials = await redeem_in_time(address)
                except EntryError as error:
                    errors[address] = error
                    if error.final:
                        # The refusal is plain text until the member has proven itself: it only limits the wait for
                        # others.
                        deadline = trio.current_time() + REFUSED_S
                        nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, deadline)
                    return
                admitted.append(
                    Admission(credentials, address[0], local_addresses().towards(address[0]) or underlay)
                )
                nursery.cancel_scope.cancel()  # the first admission counts; the invitation may have one use only

        for address in members:
            nursery.start_soon(ask, address)
    if admitted:
        return admitted[0]
    raise _not_admitted(token, members, errors)


def _not_admitted(
    token: Token, members: Sequence[Address], errors: Mapping[Address, EntryError]
) -> RefusedError | FailedError:
    is_refused = any(error.final for error in errors.values())
    said: dict[str, list[str]] = {}
    for address in members:  # in their order, not in that of the answers
        if address in errors and errors[address].final is is_refused:
            said.setdefault(str(errors[address]), []).append(address[0])
    tried = "; ".join(f"{', '.join(dict.fromkeys(hosts))}: {reason}" for reason, hosts in said.items())
    text = f"could not join the cluster {token.cluster} ({tried or 'no address to try'})"
    if any(error.passing for error in errors.values()):
        hint = "try again in a minute; `netagent keys list` on a member names the hosts that it waits for"
        return RefusedError(text, code="not-admitted-yet", thing=token.cluster, hint=hint)
    ports = {port for _, port in members}
    if is_refused:
        hint = "create a new invitation there with `netagent invite`"
        return RefusedError(text, code="not-admitted", thing=token.cluster, hint=hint)
    there = f" ({', '.join(map(str, sorted(ports)))})" if ports else ""
    hint = (
        f"check that the member's agent is running and that its record port{there} can be reached from here"
    )
    return FailedError(text, code="member-unreachable", thing=token.cluster, hint=hint)


def _of_other_family(token: Token, members: Sequence[str], own: LocalAddresses) -> RefusedError:
    ours, theirs = version_of(own.present.address), version_of(members[0])
    way = (
        f"`advertise` an IPv{theirs} address here"
        if is_fixed(own.wanted)
        else f"give this host an IPv{theirs} address"
    )
    return RefusedError(
        f"the cluster {token.cluster} uses IPv{theirs} ({', '.join(members)}), and this host "
        f"IPv{ours} ({own.present.address}): all hosts of a cluster must use one family of addresses",
        code="underlay-family",
        thing=token.cluster,
        hint=f"{way}, or `advertise` IPv{ours} addresses on all members, then join again",
    )
