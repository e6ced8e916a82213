"""Messages: parse queries and other messages, render replies.

Reading has two depths. `query_untrusted` is on the path of every query and keeps only what an answer needs;
`message_untrusted` walks every record, for upstream answers. Writing has one: `render` puts whole records into a size
limit, sets TC if a part of the answer had to stay out (RFC 2181 9), and never cuts a record.

The cost of reading is bounded by the number of octets, whatever they say: a query costs its question and at most
three records of at most 64 options, whose owners' pointers are not followed; any other message an amount of work in
proportion to its length, which `name.Names` ensures for compressed names. Octets after the last record are not part
of the message and are ignored, as the name servers in wide use ignore them.

Owner names are compressed against the question and each other, names inside record data never.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from netdns import constants as c
from netdns import edns, name
from netdns.errors import FormatError
from netdns.source import Name, RRset
from netdns.wire import Reader

_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_U16: Final = struct.Struct("!H")
_MIN_RECORD_BYTES: Final = 11
_MAX_ADDITIONAL: Final = 2
"""Bound of additional records of a query; answers and authorities: none; beyond it: FORMERR. An OPT and a signature
(RFC 8945, RFC 2931). Nothing else is meaningful there."""
_MAX_RECORDS_IN_REFUSED: Final = 3
"""Records searched for an OPT in a refused message: enough for a NOTIFY, or a query with one OPT too many."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question and the circumstances that determine its answer."""

    query_id: int
    flags: int
    question: bytes
    """The question section as received: the spelling is echoed octet for octet (RFC 4343 4.1)."""
    name: Name
    """Lower case."""
    rtype: int
    rclass: int
    opt: edns.Opt | None

    @property
    def recursion_desired(self) -> bool:
        """The RD bit."""
        return bool(self.flags & c.RD)

    @property
    def dnssec_ok(self) -> bool:
        """The DO bit, clear without EDNS."""
        return self.opt is not None and self.opt.dnssec_ok

    def udp_limit_bytes(self, ceiling_bytes: int) -> int:
        """Return how long an answer by UDP may be: what the client accepts, but never above our own limit."""
        size = 0 if self.opt is None else self.opt.size_bytes
        return min(max(size, c.PLAIN_UDP_BYTES), ceiling_bytes)


class Record(NamedTuple):
    """One record in a message. `rdata` may hold pointers into that message."""

    section: int
    """1 answer, 2 authority, 3 additional."""
    owner: Name
    """For a query: the octets as received, perhaps with a pointer."""
    rtype: int
    rclass: int
    ttl_s: int
    rdata: bytes
    start: int
    ttl_offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Message:
    """Any message, parsed."""

    message_id: int
    flags: int
    questions: tuple[tuple[Name, int, int], ...]
    """(name as spelled, type, class)."""
    question_end: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The contents of a reply, before it is fitted into a size. Owners are wire names."""

    rcode: int
    authoritative: bool = False
    answers: tuple[tuple[Name, RRset], ...] = ()
    authority: tuple[tuple[Name, RRset], ...] = ()
    additional: tuple[tuple[Name, RRset], ...] = ()
    ede: tuple[int, str] | None = None
    """RFC 8914 code and text, for clients that speak EDNS."""


def is_query_untrusted(payload: bytes) -> bool:
    """Return whether octets should be answered at all: answers to answers could go on for ever."""
    return len(payload) >= c.HEADER_BYTES and not payload[2] & 0x80


def query_untrusted(payload: bytes) -> Query:
    """Read a query with exactly one question. Raises FormatError."""
    if len(payload) < c.HEADER_BYTES:
        raise FormatError("shorter than a header")
    query_id, flags, questions, *counts = _HEADER.unpack_from(payload)
    if questions != 1:
        raise FormatError(f"{questions} questions")  # RFC 9619
    qname, rtype, rclass, end = _question_untrusted(payload)
    opt = None
    if any(counts):
        answers, authorities, additionals = counts
        # RFC 1995 3: a request for the difference of zones names the present version in AUTHORITY.
        if answers or authorities > (rtype == c.IXFR) or additionals > _MAX_ADDITIONAL:
            raise FormatError("a query with records that queries do not have")
        for record in _records(payload, end, counts, functools.partial(name.skip_untrusted, payload)):
            if record.rtype == c.OPT:
                if opt is not None or record.section != 3 or record.owner != name.ROOT:
                    raise FormatError("misplaced or second OPT")
                opt = edns.opt_untrusted(record.rclass, record.ttl_s, record.rdata)
    return Query(query_id, flags, payload[c.HEADER_BYTES : end], qname.lower(), rtype, rclass, opt)


def _question_untrusted(payload: bytes) -> tuple[Name, int, int, int]:
    """Read the name, type and class of the first question, and the offset behind it. It may have no pointer."""
    qname, offset = name.read_plain_untrusted(payload, c.HEADER_BYTES)
    reader = Reader(payload, offset)
    return qname, reader.u16(), reader.u16(), reader.offset


def message_untrusted(payload: bytes) -> Message:
    """Read any message as a whole. Raises FormatError.

    A message with TC may end anywhere, also inside a record; all whole records before that place are returned.
    """
    if len(payload) < c.HEADER_BYTES:
        raise FormatError("shorter than a header")
    message_id, flags, question_count, *counts = _HEADER.unpack_from(payload)
    names = name.Names(payload)
    reader = Reader(payload, c.HEADER_BYTES)
    questions = []
    for _ in range(question_count):
        qname, reader.offset = names.read_untrusted(reader.offset)
        questions.append((qname, reader.u16(), reader.u16()))
    records: list[Record] = []
    try:
        for record in _records(payload, reader.offset, counts, names.read_untrusted):
            records.append(record)  # noqa: PERF402 - keeps those before a truncated one
    except FormatError:
        if not flags & c.TC:
            raise
    return Message(message_id, flags, tuple(questions), reader.offset, tuple(records))


def _records(
    payload: bytes, offset: int, counts: Sequence[int], read_owner: Callable[[int], tuple[Name, int]]
) -> Iterator[Record]:
    is_cut, size = payload[2] & c.TC >> 8, len(payload)
    if not is_cut and sum(counts) * _MIN_RECORD_BYTES > size - offset:
        raise FormatError("more records announced than there is room for")
    for section, count in enumerate(counts, start=1):
        for _ in range(count):
            start = offset
            owner, offset = read_owner(start)
            data_at = offset + _RECORD.size
            if data_at > size:
                raise FormatError("record runs past the end")
            rtype, rclass, ttl_s, length = _RECORD.unpack_from(payload, offset)
            end = data_at + length
            if end > size:
                raise FormatError("record data runs past the end")
            yield Record(section, owner, rtype, rclass, ttl_s, payload[data_at:end], start, offset + 4, end)
            offset = end


def reply_flags(query_flags: int, rcode: int, *, authoritative: bool = False, truncated: bool = False) -> int:
    """Return the header flags of our answer: opcode, RD and CD are the client's, RA is ours, AD and Z are clear."""
    kept = query_flags & (c.OPCODE_MASK | c.RD | c.CD)
    return c.QR | c.RA | kept | (c.AA if authoritative else 0) | (c.TC if truncated else 0) | rcode & 0xF


def render_refusal(payload: bytes, rcode: int, *, our_size_bytes: int) -> bytes:
    """Answer a message (of at least 12 octets) that we did not understand, or whose operation is not implemented.

    Its question is repeated and its OPT answered as far as they are readable: an answer without OPT says that we do
    not support EDNS at all (RFC 6891 7), and one without the question could belong to any question.
    """
    query_id, flags, questions, *counts = _HEADER.unpack_from(payload)
    end, opt = c.HEADER_BYTES, b""
    with contextlib.suppress(FormatError):
        if questions == 1:
            end = _question_untrusted(payload)[-1]
        if questions <= 1:
            records = _records(payload, end, counts, functools.partial(name.skip_untrusted, payload))
            for record in itertools.islice(records, _MAX_RECORDS_IN_REFUSED):
                if record.rtype == c.OPT and not opt:
                    opt = edns.render_opt(our_size_bytes, dnssec_ok=bool(record.ttl_s & c.DO))
    header = _HEADER.pack(query_id, reply_flags(flags, rcode), end > c.HEADER_BYTES, 0, 0, bool(opt))
    return header + payload[c.HEADER_BYTES : end] + opt


def render_query(message_id: int, qname: Name, rtype: int, *, flags: int, opt: bytes) -> bytes:
    """Write a query of class IN; `opt` is a rendered OPT or empty."""
    header = _HEADER.pack(message_id, flags, 1, 0, 0, 1 if opt else 0)
    return header + qname + struct.pack("!HH", rtype, c.IN) + opt


def render(query: Query, reply: Reply, *, limit_bytes: int, our_size_bytes: int, turn: int = 0) -> bytes:
    """Write the reply to a query in at most `limit_bytes` (>= 512).

    `turn` is the index of the record with which the last RRset of the answer begins. TC is set when a record of
    ANSWER or AUTHORITY did not fit; ADDITIONAL is silently left out.
    """
    opt = b""
    if query.opt is not None:
        ede = reply.ede
        opt = edns.render_opt(our_size_bytes, rcode=reply.rcode, dnssec_ok=query.opt.dnssec_ok, ede=ede)
        if c.HEADER_BYTES + len(query.question) + len(opt) > limit_bytes:
            opt = edns.render_opt(our_size_bytes, rcode=reply.rcode, dnssec_ok=query.opt.dnssec_ok)
    writer = _Writer(query, limit_bytes - len(opt))
    counts = [0, 0, 0]
    truncated = False
    last = len(reply.answers) - 1
    sections = (reply.answers, reply.authority, reply.additional)
    for section, rrsets in enumerate(sections):
        for index, (owner, rrset) in enumerate(rrsets):
            rotate = turn if section == 0 and index == last else 0
            written = writer.write(owner, rrset, rotate)
            counts[section] += written
            if written < rrset.count:
                truncated = truncated or section < 2
                break
        if truncated:
            break
    flags = reply_flags(query.flags, reply.rcode, authoritative=reply.authoritative, truncated=truncated)
    header = _HEADER.pack(query.query_id, flags, 1, counts[0], counts[1], counts[2] + bool(opt))
    return header + bytes(writer.body) + opt


class _Writer:
    """Everything between header and OPT, with the offsets of the names written so far."""

    __slots__ = ("body", "limit_bytes", "offsets")

    def __init__(self, query: Query, limit_bytes: int) -> None:
        self.body = bytearray(query.question)
        self.limit_bytes = limit_bytes - c.HEADER_BYTES
        self.offsets = {suffix: c.HEADER_BYTES + offset for offset, suffix in name.suffixes(query.name)}

    def write(self, owner: Name, rrset: RRset, turn: int) -> int:
        """Append as many records of the set as fit; return how many."""
        for count, rdata in enumerate(rrset.turned(turn)):
            position = len(self.body)
            head = self._compress(owner)
            if position + len(head) + 10 + len(rdata) > self.limit_bytes:
                return count
            self.body += head + _RECORD.pack(rrset.rtype, c.IN, rrset.ttl_s, len(rdata)) + rdata
            if head[0] < 0xC0:
                self._remember(owner, c.HEADER_BYTES + position, len(head))
        return rrset.count

    def _compress(self, owner: Name) -> bytes:
        for offset, suffix in name.suffixes(owner):
            target = self.offsets.get(suffix.lower())
            if target is not None:
                return owner[:offset] + _U16.pack(0xC000 | target)
        return owner

    def _remember(self, owner: Name, position: int, written_bytes: int) -> None:
        for offset, suffix in name.suffixes(owner):
            if offset < written_bytes and position + offset < name.POINTER_LIMIT:
                self.offsets.setdefault(suffix.lower(), position + offset)
