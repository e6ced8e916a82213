"""Messages against dnspython: what we read it reads, what we write it reads back, and no octets do harm."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import dns.edns
import dns.flags
import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from dns.message import QueryMessage
from hypothesis import example, given
from hypothesis import strategies as st

from netdns import constants as c
from netdns import message, name, rdata
from netdns.errors import DnsError, FormatError, UsageError
from netdns.message import Query, Reply
from netdns.source import RRset
from tests.dns.world import option, wire_of

label = st.text("abcXYZ019-_", min_size=1, max_size=12).map(str.encode)
names = st.lists(label, min_size=1, max_size=5).map(name.from_labels)
rdatas = st.one_of(
    st.tuples(st.just(c.A), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(c.AAAA), st.binary(min_size=16, max_size=16)),
    st.tuples(st.just(c.PTR), names),
    st.tuples(st.just(c.SRV), st.builds(rdata.srv, *[st.integers(0, 65535)] * 3, names)),
    st.tuples(st.just(c.TXT), st.binary(max_size=600).map(rdata.txt)),
    st.tuples(st.just(65280), st.binary(max_size=40)),
)
rrsets = st.builds(
    lambda pair, count: RRset(pair[0], 5, tuple(dict.fromkeys([pair[1]] * count))), rdatas, st.integers(1, 3)
)
address_sets = st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=90, unique=True).map(
    lambda data: RRset(c.A, 5, tuple(data))
)
sections = st.lists(st.tuples(names, st.one_of(rrsets, address_sets)), max_size=4).map(tuple)


rtypes = st.integers(1, 60).filter(lambda rtype: rtype != c.OPT)


@st.composite
def queries(draw: st.DrawFn) -> tuple[dns.message.Message, Query]:
    qname = dns.name.from_wire(draw(names), 0)[0]
    theirs = dns.message.make_query(qname, dns.rdatatype.RdataType.make(draw(rtypes)))
    if draw(st.booleans()):
        options = [option(65001, draw(st.binary(max_size=8)))]
        flags = draw(st.sampled_from([0, 0x8000]))
        theirs.use_edns(0, flags, draw(st.integers(0, 65535)), options=options)
    return theirs, message.query_untrusted(theirs.to_wire())


@given(queries())
def test_queries_are_read_as_dnspython_writes_them(pair: tuple[QueryMessage, Query]) -> None:
    theirs, ours = pair
    assert ours.query_id == theirs.id
    assert ours.name == wire_of(theirs.question[0].name).lower()
    assert (ours.rtype, ours.rclass) == (theirs.question[0].rdtype, theirs.question[0].rdclass)
    assert (ours.opt is not None) == (theirs.edns >= 0)
    if ours.opt is not None:
        assert ours.opt.size_bytes == theirs.payload
        assert ours.dnssec_ok == bool(theirs.ednsflags & dns.flags.DO)


@given(queries(), sections, sections, st.integers(0, 4095), st.data())
def test_replies_are_read_back_and_never_too_long(
    pair: tuple[QueryMessage, Query],
    answers: tuple[tuple[bytes, RRset], ...],
    additional: tuple[tuple[bytes, RRset], ...],
    rcode: int,
    data: st.DataObject,
) -> None:
    query, limit_bytes, turn = pair[1], data.draw(st.integers(512, 1500)), data.draw(st.integers(0, 100))
    rcode = rcode if query.opt else rcode & 0xF
    reply = Reply(rcode, authoritative=True, answers=answers, additional=additional, ede=(18, "no"))
    wire = message.render(query, reply, limit_bytes=limit_bytes, our_size_bytes=1232, turn=turn)
    assert len(wire) <= limit_bytes
    ours = message.message_untrusted(wire)
    theirs = dns.message.from_wire(wire, ignore_trailing=False)
    assert (theirs.edns >= 0) == (query.opt is not None)
    assert theirs.rcode() == rcode
    truncated = bool(theirs.flags & dns.flags.TC)
    wanted = [(owner.lower(), rrset.rtype, item) for owner, rrset in answers for item in rrset.rdatas]
    got = [
        (record.owner.lower(), record.rtype, record.rdata) for record in ours.records if record.section == 1
    ]
    if truncated:
        assert len(got) < len(wanted)
        assert not [record for record in ours.records if record.section > 1 and record.rtype != c.OPT]
    else:
        assert sorted(got) == sorted(wanted)
    assert {item[:2] for item in got} <= {item[:2] for item in wanted}


@given(queries(), sections)
def test_what_is_rendered_is_parsed_to_the_same(
    pair: tuple[QueryMessage, Query], answers: tuple[tuple[bytes, RRset], ...]
) -> None:
    query = pair[1]
    reply = Reply(c.NOERROR, answers=answers)
    wire = message.render(query, reply, limit_bytes=65535, our_size_bytes=1232)
    ours = message.message_untrusted(wire)
    regrouped = [
        (record.owner, RRset(record.rtype, record.ttl_s, (record.rdata,)))
        for record in ours.records
        if record.section == 1
    ]
    again = message.render(
        query, Reply(c.NOERROR, answers=tuple(regrouped)), limit_bytes=65535, our_size_bytes=1232
    )
    assert again == wire


@given(st.binary(max_size=400))
@example(bytes(12))
@example(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01")
def test_any_octets_are_a_message_or_a_format_error(payload: bytes) -> None:
    for parse in (message.query_untrusted, message.message_untrusted):
        try:
            parse(payload)
        except FormatError:
            continue


@given(queries(), st.data())
def test_damaged_messages_are_a_message_or_a_format_error(
    pair: tuple[QueryMessage, Query], data: st.DataObject
) -> None:
    query = pair[1]
    reply = Reply(c.NOERROR, answers=data.draw(sections))
    wire = bytearray(message.render(query, reply, limit_bytes=65535, our_size_bytes=1232))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        message.message_untrusted(bytes(wire))


def test_the_question_of_a_query_may_not_be_compressed() -> None:
    head = struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0)
    with pytest.raises(FormatError):
        message.query_untrusted(head + b"\x01a\xc0\x04\x00\x01\x00\x01")


def test_rotation_turns_the_last_set_only() -> None:
    query = message.query_untrusted(dns.message.make_query("a.test", "A").to_wire())
    first = name.from_text("b.test")
    reply = Reply(
        0,
        answers=(
            (query.name, RRset(c.CNAME, 5, (first,))),
            (first, RRset(c.A, 5, (b"\x01\0\0\1", b"\x02\0\0\2", b"\x03\0\0\3"))),
        ),
    )
    wire = message.render(query, reply, limit_bytes=512, our_size_bytes=1232, turn=4)
    theirs = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert [rrset[0].to_text() for rrset in theirs.answer] == ["b.test.", "2.0.0.2", "3.0.0.3", "1.0.0.1"]


@pytest.mark.parametrize(
    ("shown", "turning", "turn", "expected"),
    [
        (0, 2, 0, "abcd"),
        (0, 2, 1, "bacd"),
        (0, 2, 3, "bacd"),
        (1, 0, 2, "c"),
        (1, 2, 1, "b"),
        (3, 0, 3, "dab"),
    ],
)
def test_some_records_rotate_before_others(shown: int, turning: int, turn: int, expected: str) -> None:
    rrset = RRset(c.TXT, 5, (b"a", b"b", b"c", b"d"), shown=shown, turning=turning)
    assert b"".join(rrset.turned(turn)).decode() == expected
    assert list(rrset.beginnings) == list(range(turning or 4))


def test_additional_is_dropped_without_a_word() -> None:
    query = message.query_untrusted(dns.message.make_query("a.test", "A").to_wire())
    address = RRset(c.A, 5, (b"\x01\0\0\1",))
    glue = tuple((name.from_text(f"{'g' * 40}{number}.test"), address) for number in range(20))
    reply = Reply(0, answers=((query.name, address),), additional=glue)
    theirs = dns.message.from_wire(message.render(query, reply, limit_bytes=512, our_size_bytes=1232))
    assert not theirs.flags & dns.flags.TC
    assert len(theirs.answer) == 1
    assert 0 < len(theirs.additional) < 20


def test_refusal_copies_id_operation_and_recursion_desired() -> None:
    payload = struct.pack("!HHHHHH", 77, 0x2900 | 0x0040, 9, 9, 9, 9)
    refusal = message.render_refusal(payload, c.NOTIMP, our_size_bytes=1232)
    assert refusal == struct.pack("!HHHHHH", 77, 0xA984, 0, 0, 0, 0)


@given(st.binary(min_size=12, max_size=400), st.sampled_from([c.NOTIMP, c.FORMERR]))
@example(bytes(4) + b"\x00\x01" + bytes(6) + b"\x01a\x00\x00\x01\x00\x01", c.FORMERR)
def test_any_octets_can_be_refused_and_no_refusal_is_longer_than_512_octets(
    payload: bytes, rcode: int
) -> None:
    refusal = message.render_refusal(payload, rcode, our_size_bytes=1232)
    assert len(refusal) <= 12 + 255 + 4 + 11
    theirs = dns.message.from_wire(refusal)
    assert (theirs.id, theirs.rcode()) == (int.from_bytes(payload[:2], "big"), rcode)


@given(queries(), sections, sections, st.data())
def test_a_truncated_message_may_end_anywhere(
    pair: tuple[QueryMessage, Query],
    answers: tuple[tuple[bytes, RRset], ...],
    authority: tuple[tuple[bytes, RRset], ...],
    data: st.DataObject,
) -> None:
    reply = Reply(c.NOERROR, answers=answers, authority=authority)
    wire = bytearray(message.render(pair[1], reply, limit_bytes=65535, our_size_bytes=1232))
    whole = message.message_untrusted(bytes(wire))
    wire[2] |= c.TC >> 8
    cut = data.draw(st.integers(whole.question_end, len(wire)))
    read = message.message_untrusted(bytes(wire[:cut]))
    assert read.questions == whole.questions
    assert read.records == tuple(record for record in whole.records if record.end <= cut)
    if cut < len(wire):
        wire[2] &= ~(c.TC >> 8)
        with pytest.raises(FormatError):
            message.message_untrusted(bytes(wire[:cut]))


@pytest.mark.parametrize(
    ("made", "rtype", "text"),
    [
        (rdata.a("192.0.2.1"), "A", "192.0.2.1"),
        (rdata.aaaa("2001:db8::1"), "AAAA", "2001:db8::1"),
        (rdata.ptr(b"\x01a\x04test\x00"), "PTR", "a.test."),
        (rdata.srv(1, 2, 3, b"\x01a\x00"), "SRV", "1 2 3 a."),
        (
            rdata.soa(b"\x01a\x00", b"\x01b\x00", serial=2**32 + 5, minimum_s=4),
            "SOA",
            "a. b. 5 3600 600 86400 4",
        ),
        (rdata.txt(b"a", b""), "TXT", '"a" ""'),
        (rdata.hinfo(b"x", b"y"), "HINFO", '"x" "y"'),
    ],
)
def test_rdata_agrees_with_dnspython(made: bytes, rtype: str, text: str) -> None:
    theirs = dns.rdata.from_text("IN", rtype, text)
    assert made == theirs.to_wire()
    assert rdata.soa_minimum_s(rdata.soa(b"\0", b"\0", serial=1, minimum_s=9)) == 9


@pytest.mark.parametrize(
    "make", [lambda: rdata.a("::1"), lambda: rdata.aaaa("1.2.3.4"), lambda: rdata.a("x"), rdata.txt]
)
def test_rdata_refuses_values_that_do_not_fit(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


def test_usage_errors_are_value_errors_too() -> None:
    assert issubclass(UsageError, ValueError)
    assert issubclass(FormatError, DnsError)


def test_extended_error_as_dnspython_reads_it() -> None:
    query = dns.message.make_query("a.test", "A", use_edns=0)
    reply = Reply(c.REFUSED, ede=(18, "because"))
    wire = message.render(
        message.query_untrusted(query.to_wire()), reply, limit_bytes=512, our_size_bytes=1232
    )
    (option,) = dns.message.from_wire(wire).options
    assert (option.code, option.text) == (18, "because")


def test_an_rrset_that_shows_part_of_itself_shows_another_part_in_turn() -> None:
    addresses = tuple(bytes([10, 0, 0, n]) for n in range(1, 6))
    query = message.query_untrusted(
        message.render_query(7, name.from_text("web.mesh.internal"), 1, flags=0, opt=b"")
    )
    reply = Reply(0, answers=((query.name, RRset(1, 5, addresses, shown=2)),))
    seen = []
    for turn in range(5):
        rendered = message.render(query, reply, limit_bytes=512, our_size_bytes=1232, turn=turn)
        read = message.message_untrusted(rendered)
        assert not read.flags & 0x0200, "part of a set on purpose is no truncation"
        seen.append([record.rdata for record in read.records])
    assert seen == [[addresses[turn], addresses[(turn + 1) % 5]] for turn in range(5)]
