"""Getting in: one member after the other is asked to redeem a token, until one lets this host in.

Hosts of a cluster are reached by one family of addresses, so only those members are asked that could reach this host
(`Standpoint`). What follows from being let in is the agent's to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from netagent.datapath.uplink import Standpoint, Underlay, is_fixed, version_of
from netagent.errors import FailedError, RefusedError
from netagent.membership.seed import UnknownHostError, look_up
from netgossip.entry import Credentials
from netgossip.entry_driver import EntryError, redeem
from netgossip.identity import Identity
from netgossip.invitation import Token
from netgossip.types import Address


@dataclass(frozen=True, slots=True)
class Admission:
    """A member has let this host in."""

    credentials: Credentials
    member: str
    """Its address."""
    underlay: Underlay
    """What this host is to be reached by in the cluster."""


async def addresses_given(texts: Iterable[str], record_port: int) -> list[Address]:
    """What a user wrote, `HOST[:PORT]`, as addresses of record ports. FailedError for a host that is not known."""
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
    standpoint: Callable[[], Standpoint],
) -> Admission:
    """Ask the members at these record ports in turn. `standpoint` is asked again and again: a host's addresses may
    change while somebody does not answer.

    Raises RefusedError `underlay-family`, asking nobody; `not-admitted` when one refused; FailedError
    `member-unreachable`. What each of them said is in the error.
    """
    if members and not any(standpoint().towards(host) for host, _ in members):
        raise _of_other_family(token, [host for host, _ in members], standpoint())
    tried: list[str] = []
    is_refused = False
    for address in members:
        underlay = standpoint().towards(address[0])
        if underlay is None:
            continue
        try:
            credentials = await redeem(address, token, identity, name)
        except EntryError as error:
            tried.append(f"{address[0]}: {error}")
            # A refusal is plain text until the member has proven itself: it ends nothing.
            is_refused = is_refused or error.final
            continue
        return Admission(credentials, address[0], standpoint().towards(address[0]) or underlay)
    raise _not_admitted(token, tried, {port for _, port in members}, is_refused=is_refused)


def _not_admitted(
    token: Token, tried: Sequence[str], ports: set[int], *, is_refused: bool
) -> RefusedError | FailedError:
    text = f"could not enter the cluster {token.cluster} ({'; '.join(tried) or 'no address to try'})"
    if is_refused:
        hint = "ask for a new invitation with `netagent invite` there"
        return RefusedError(text, code="not-admitted", thing=token.cluster, hint=hint)
    there = f" ({', '.join(map(str, sorted(ports)))})" if ports else ""
    hint = f"check that the agent of the member runs and that its record port{there} can be reached from here"
    return FailedError(text, code="member-unreachable", thing=token.cluster, hint=hint)


def _of_other_family(token: Token, members: Sequence[str], own: Standpoint) -> RefusedError:
    ours, theirs = version_of(own.present.address), version_of(members[0])
    way = (
        f"`advertise` an IPv{theirs} address here"
        if is_fixed(own.wanted)
        else f"give this host an IPv{theirs} address"
    )
    return RefusedError(
        f"the cluster {token.cluster} is reached by IPv{theirs} ({', '.join(members)}), and this host by "
        f"IPv{ours} ({own.present.address}): hosts of a cluster are reached by one family of addresses",
        code="underlay-family",
        thing=token.cluster,
        hint=f"{way}, or `advertise` IPv{ours} addresses on all members, then join again",
    )
