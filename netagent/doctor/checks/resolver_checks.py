"""What a resolver should answer about an endpoint, and whether it does. Pure.

The expected answer comes from the source that the resolver process uses, over a table built anew from the view; the
actual one from a query sent inside the container. A hidden name is expected to be absent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from netagent.model.sandbox import Sandbox, SandboxId
from netagent.registry.view import EndpointView, RegistryView
from netagent.resolver.zone import every_row
from netagent.resolver.zone_source import ZoneSource
from netdns import constants
from netdns.errors import FormatError
from netdns.message import message_untrusted
from netdns.name import from_text
from netdns.source import Answer, Found, Name, NoData
from netgossip.slices import Slices

_ROWS_PER_SLICE: Final = 64

RCODES: Final = {
    constants.NOERROR: "NOERROR",
    constants.SERVFAIL: "SERVFAIL",
    constants.NXDOMAIN: "NXDOMAIN",
    constants.REFUSED: "REFUSED",
}


@dataclass(frozen=True, slots=True)
class ResolverQuestion:
    """A name in text without the last dot, and a type."""

    name: str
    rtype: int

    @property
    def wire(self) -> Name:
        """The name as octets."""
        return from_text(self.name).lower()


@dataclass(frozen=True, slots=True)
class ResolverAnswer:
    """An answer as it arrived."""

    rcode: int
    data: frozenset[bytes]
    truncated: bool

    @property
    def text(self) -> str:
        """The response code as text."""
        return RCODES.get(self.rcode, f"code {self.rcode}")


def said_untrusted(payload: bytes, question: ResolverQuestion) -> ResolverAnswer:
    """Parse the answer to this question from a datagram. FormatError when it is none."""
    message = message_untrusted(payload)
    if not message.flags & constants.QR:
        raise FormatError("a query")
    if [(name.lower(), rtype) for name, rtype, _ in message.questions] != [(question.wire, question.rtype)]:
        raise FormatError("an answer to another question")
    data = frozenset(
        record.rdata for record in message.records if record.section == 1 and record.rtype == question.rtype
    )
    return ResolverAnswer(message.flags & 0xF, data, bool(message.flags & constants.TC))


def source_of(
    view: RegistryView, sandboxes: Iterable[Sandbox], domain: str, refused: Container[bytes] = ()
) -> Slices[ZoneSource]:
    """Return the resolver's source over this view. `refused`: service addresses that the kernel has no room for."""
    source = ZoneSource()
    rows = every_row(view, sandboxes, domain, refused=refused)
    while piece := tuple(islice(rows, _ROWS_PER_SLICE)):
        source.apply(piece)
        yield
    return source


def expected(source: ZoneSource, question: ResolverQuestion, sandbox_id: SandboxId) -> Answer:
    """Return the answer that the sandbox should get."""
    return source.lookup(question.wire, question.rtype, sandbox_id)


def fault(answer: Answer, said: ResolverAnswer | None) -> str:
    """Describe what is wrong with an answer; empty when nothing is."""
    if said is None:
        return "no resolver answers"
    match answer:
        case Found(rrset):
            wanted = frozenset(rrset.rdatas)
            if said.rcode != constants.NOERROR:
                return f"it answers {said.text} instead of {_data(wanted, rrset.rtype)}"
            is_partial = said.truncated or rrset.count < len(rrset.rdatas)
            if said.data - wanted or (not is_partial and wanted - said.data):
                said_data = _data(said.data, rrset.rtype) or "nothing"
                return f"it answers {said_data} instead of {_data(wanted, rrset.rtype)}"
            return ""
        case NoData():
            return "" if (said.rcode, said.data) == (constants.NOERROR, frozenset()) else _unexpected(said)
        case _:
            return "" if said.rcode in {constants.NXDOMAIN, constants.REFUSED} else _unexpected(said)


def _unexpected(said: ResolverAnswer) -> str:
    return f"it answers {said.text} with {len(said.data)} records instead of none"


def _data(data: frozenset[bytes], rtype: int) -> str:
    if rtype not in {constants.A, constants.AAAA}:
        return f"{len(data)} records"
    texts = sorted(map(_address_text, data))
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")


def _address_text(data: bytes) -> str:
    """Format an address record. Another program's resolver may send any number of octets as an address."""
    if len(data) in {4, 16}:
        return str(ipaddress.ip_address(data))
    return f"{len(data)} octets in place of an address"


def questions_about(endpoint: EndpointView, names: Iterable[str]) -> Iterator[tuple[ResolverQuestion, bytes]]:
    """Yield for each name the type of the endpoint's first address, and that address."""
    for address in endpoint.record.addresses[:1]:
        packed = ipaddress.ip_address(address).packed
        rtype = constants.A if len(packed) == 4 else constants.AAAA
        yield from ((ResolverQuestion(name, rtype), packed) for name in names)


def leads_to(said: ResolverAnswer | None, address: bytes) -> bool:
    """True when the answer has the address, or was cut off and may have had it."""
    return said is not None and (address in said.data or said.truncated)


Replies = Mapping[ResolverQuestion, ResolverAnswer | None]
"""None: no answer came in time."""
