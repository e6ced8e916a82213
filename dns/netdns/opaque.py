"""Upstream answers, relayed without interpreting them.

Only data of a single hop is changed: the header, the spelling of the question, TTLs, and OPT. The rest stays as
received, so unknown types pass (RFC 3597, 5625 4.3), and compression stays valid because nothing moves: the question
keeps its length, and only the tail is cut. For the same reason everything after an OPT in ADDITIONAL is dropped with
it; ADDITIONAL may always be left out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from netdns import constants as c
from netdns import edns, rdata, rebinding
from netdns.errors import FormatError
from netdns.message import Message, Query, Record, message_untrusted, reply_flags

_HEADER: Final = struct.Struct("!HHHHHH")
_ADDRESSES: Final = frozenset({c.A, c.AAAA})
_HAVE_HINTS: Final = frozenset({c.SVCB, c.HTTPS})
_TYPE_AND_CLASS_BYTES: Final = 4
_U32: Final = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class OpaqueAnswer:
    """An answer for all clients with the same question, and how long it may be kept."""

    rcode: int
    body: bytes
    """From the question on, without OPT."""
    ends: tuple[tuple[int, int], ...]
    """(section, offset in `body`) of the end of each record, in order."""
    ttls: tuple[tuple[int, int], ...]
    """(offset in `body`, TTL in s) of each record, caps applied."""
    question_bytes: int
    keep_s: int
    """0: not at all."""
    addresses: tuple[bytes, ...] = ()
    """From the A and AAAA records in ANSWER, and the hints in its SVCB and HTTPS records."""
    positive: bool = False
    """Whether it has a record of the type that was asked for; otherwise it denies that there is one."""
    ede: tuple[int, str] | None = None
    """Why it says less than the upstream answer: RFC 8914 code and text."""
    truncated: bool = False
    """Upstream set TC: there is more than this."""

    @property
    def size_bytes(self) -> int:
        """The approximate cost of holding it: the octets, two tuples of small numbers per record, and the
        addresses."""
        return len(self.body) + 200 + 120 * len(self.ends) + 60 * len(self.addresses)


def answer_untrusted(
    payload: bytes, question: bytes, *, max_ttl_s: int, max_negative_ttl_s: int
) -> tuple[OpaqueAnswer, bool]:
    """Read an upstream answer to `question`, whose name is in lower case; return it and whether it was truncated.

    Raises FormatError for octets that are not a message, and for an answer to another question.
    """
    message = message_untrusted(payload)
    if not message.flags & c.QR or message.flags & c.OPCODE_MASK:
        raise FormatError("not an answer to a query")
    name_end = message.question_end - _TYPE_AND_CLASS_BYTES
    # Only the name is lowered: octets of a type may equal letters, as HTTPS, 65, is an A.
    asked = payload[c.HEADER_BYTES : name_end].lower() + payload[name_end : message.question_end]
    if asked != question:
        raise FormatError("answer to another question")
    rcode = message.flags & 0xF
    kept: list[Record] = []
    for record in message.records:
        if record.rtype == c.OPT:
            if record.section != 3:
                raise FormatError("misplaced OPT")
            rcode |= record.ttl_s >> 24 << 4
            break
        kept.append(record)
    end = kept[-1].end if kept else message.question_end
    ttls = [_ttl_s(record, max_ttl_s, max_negative_ttl_s) for record in kept]
    positive = rcode == c.NOERROR and _has_answer(message, kept)
    answer = OpaqueAnswer(
        rcode=rcode,
        body=payload[c.HEADER_BYTES : end],
        ends=tuple((record.section, record.end - c.HEADER_BYTES) for record in kept),
        ttls=tuple((record.ttl_offset - c.HEADER_BYTES, ttl) for record, ttl in zip(kept, ttls, strict=True)),
        question_bytes=len(question),
        keep_s=_keep_s(message, rcode, kept, ttls, positive=positive),
        addresses=_addresses(kept),
        positive=positive,
        truncated=bool(message.flags & c.TC),
    )
    return answer, answer.truncated


def emptied(answer: OpaqueAnswer, *, ede: tuple[int, str]) -> OpaqueAnswer:
    """Return "no record of this type" in place of an answer, kept as long as the answer would have been."""
    return OpaqueAnswer(
        rcode=c.NOERROR,
        body=answer.body[: answer.question_bytes],
        ends=(),
        ttls=(),
        question_bytes=answer.question_bytes,
        keep_s=answer.keep_s,
        ede=ede,
    )


def _addresses(records: Sequence[Record]) -> tuple[bytes, ...]:
    """Return all addresses to which an answer may lead a client. Raises FormatError for too many hints."""
    addresses: list[bytes] = []
    hints: set[bytes] = set()
    for record in records:
        if record.section == 1 and record.rtype in _ADDRESSES:
            addresses.append(record.rdata)
        elif record.section == 1 and record.rtype in _HAVE_HINTS:
            hints |= rebinding.hints_untrusted(record.rdata)
            if len(hints) > rebinding.MAX_HINTS:
                raise FormatError(f"more than {rebinding.MAX_HINTS} addresses in hints")
    return (*addresses, *hints)


def _has_answer(message: Message, records: Sequence[Record]) -> bool:
    rtype = message.questions[0][1]
    for record in records:
        if record.section != 1:
            break
        if rtype in {record.rtype, c.ANY}:
            return True
    return False


def _ttl_s(record: Record, cap_s: int, negative_cap_s: int) -> int:
    """Return the TTL. RFC 2181 8: with the top bit set it is 0. RFC 2308 5: an SOA in AUTHORITY has its MINIMUM."""
    ttl_s = 0 if record.ttl_s & 0x80000000 else min(record.ttl_s, cap_s)
    if record.section == 2 and record.rtype == c.SOA:
        if len(record.rdata) < 22:
            raise FormatError("SOA without its names and numbers")
        ttl_s = min(ttl_s, rdata.soa_minimum_s(record.rdata), negative_cap_s)
    return ttl_s


def _keep_s(
    message: Message, rcode: int, records: Sequence[Record], ttls: Sequence[int], *, positive: bool
) -> int:
    """Return how long to keep the answer. A negative one without its SOA is not kept (RFC 2308 5)."""
    if message.flags & c.TC or rcode not in {c.NOERROR, c.NXDOMAIN}:
        return 0
    pairs = list(zip(records, ttls, strict=True))
    times = [ttl_s for record, ttl_s in pairs if record.section == 1]
    if not positive:
        soa = [ttl_s for record, ttl_s in pairs if record.section == 2 and record.rtype == c.SOA]
        if not soa:
            return 0
        times += soa
    return min(times, default=0)


def relay(answer: OpaqueAnswer, query: Query, *, age_s: int, limit_bytes: int, our_size_bytes: int) -> bytes:
    """Write the answer for one client: its id, flags, spelling, size; TTLs reduced by `age_s`; our OPT, not
    theirs."""
    opt = b""
    if query.opt is not None:
        opt = edns.render_opt(
            our_size_bytes, rcode=answer.rcode, dnssec_ok=query.opt.dnssec_ok, ede=answer.ede
        )
    room = limit_bytes - c.HEADER_BYTES - len(opt)
    counts = [0, 0, 0]
    end, truncated = answer.question_bytes, answer.truncated
    for section, record_end in answer.ends:
        if record_end > room:
            truncated = truncated or section < 3
            break
        counts[section - 1] += 1
        end = record_end
    # Copy only what is sent: a client may ask by UDP, again and again, for 512 octets of an answer of 64 KiB.
    body = bytearray(answer.body[:end])
    body[: answer.question_bytes] = query.question
    for offset, ttl_s in answer.ttls[: sum(counts)]:
        _U32.pack_into(body, offset, max(ttl_s - age_s, 0))
    flags = reply_flags(query.flags, answer.rcode, truncated=truncated)
    header = _HEADER.pack(query.query_id, flags, 1, counts[0], counts[1], counts[2] + bool(opt))
    return header + body + opt
