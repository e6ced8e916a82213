"""What the parsers of outside octets cost: instructions, counted, for the worst messages that could be thought of.

`PER_OCTET` and `PER_QUERY` are the promise: an answer costs an amount in proportion to its octets, however its names
point at each other, and a query an amount that does not depend on its length at all.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.doctor.checks.resolver_checks import ResolverQuestion, said_untrusted
from netdns import constants as c
from netdns import message, name, opaque, rebinding
from netdns.errors import FormatError
from netdns.resolver import Resolver, Transport
from netdns.testing import TableSource
from tests.fakes.work import TooMuchWorkError, instructions_of

PER_OCTET = 50
"""A record of 11 octets takes 230 instructions, a label of two octets 50."""
PER_QUERY = 20_000
"""An ordinary one takes 1,000; a name of 126 labels is looked up with each of its parents."""

UDP_BYTES, TCP_BYTES = 4096, 65_535
QUESTION = b"\x01a\x00\x00\x01\x00\x01"
LONGEST = b"\x01a" * 126 + b"\x00"
RESPONSE, QUERY = 0x8180, 0x0100


def pointer(target: int) -> bytes:
    return struct.pack("!H", 0xC000 | target)


def record(owner: bytes, data: bytes = b"", rtype: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, 1, 60, len(data)) + data


def filled(size: int, flags: int, owners: Callable[[int], bytes], store: bytes, section: int = 3) -> bytes:
    """A message of `size` octets: `store` is the data of its first record, at offset 30; then as many records as fit,
    each with the next of `owners`."""
    body, counts = bytearray(QUESTION + record(b"\x00", store)), [1, 0, 0, 0]
    counts[section] = 1
    while len(body) + 12 + len(one := record(owners(counts[section]))) <= size:
        body += one
        counts[section] += 1
    return struct.pack("!HHHHHH", 1, flags, *counts) + body


STORE_AT = 12 + len(QUESTION) + 11


def same(target: int) -> Callable[[int], bytes]:
    return lambda _: pointer(target)


def chain(links: int, label: bytes = b"") -> bytes:
    """Names, each a label (or nothing) and a pointer to the one before; the first is the root."""
    made = bytearray(b"\x00")
    at = 0
    for _ in range(links):
        target, at = at, len(made)
        made += label + pointer(STORE_AT + target)
    return bytes(made)


def runs(count: int, text: bytes = b"\x01a") -> bytes:
    return (text * 126 + b"\x00\x00") * count


WORST = {
    "records of eleven octets": (lambda _: b"\x00", b""),
    "all owners the longest name": (same(STORE_AT), LONGEST),
    "a long chain of pointers": (same(STORE_AT + len(chain(1500)) - 2), chain(1500)),
    "as many pointers as a name may have": (same(STORE_AT + len(chain(15)) - 2), chain(15)),
    "pointers and labels": (same(STORE_AT + len(chain(15, b"\x01a")) - 4), chain(15, b"\x01a")),
    "more pointers and labels": (same(STORE_AT + len(chain(120, b"\x01a")) - 4), chain(120, b"\x01a")),
    "each label of the longest name": (lambda n: pointer(STORE_AT + n % 126 * 2), LONGEST),
    "each label, the last first": (lambda n: pointer(STORE_AT + 250 - n % 126 * 2), LONGEST),
    "each label of many long names": (lambda n: pointer(STORE_AT + n * 2 % 3700), runs(15)),
    "each label of very many long names": (lambda n: pointer(STORE_AT + n * 6 % 16_000), runs(64)),
    "octets that are labels in either alignment": (
        lambda n: pointer(STORE_AT + n % 3700),
        runs(15, b"\x01\x01"),
    ),
    "owners with long labels before the pointer": (
        lambda _: b"\x01a" * 100 + pointer(STORE_AT),
        b"\x01a" * 20 + b"\x00",
    ),
    "a chain that grows with the records": (lambda n: b"\x01a" + pointer(STORE_AT + (n > 1) * n), LONGEST),
}


def parse(read: Callable[[bytes], object], payload: bytes) -> None:
    with contextlib.suppress(FormatError):
        read(payload)


def read_as_upstreams(payload: bytes) -> None:
    opaque.answer_untrusted(payload, QUESTION, max_ttl_s=3600, max_negative_ttl_s=900)


def read_as_the_doctors(payload: bytes) -> None:
    said_untrusted(payload, ResolverQuestion("a", c.A))


@pytest.mark.parametrize("case", WORST)
@pytest.mark.parametrize(
    ("read", "size", "flags"),
    [
        (read_as_upstreams, TCP_BYTES, RESPONSE),
        (read_as_upstreams, UDP_BYTES, RESPONSE),
        (read_as_upstreams, UDP_BYTES, RESPONSE | c.TC),
        (read_as_the_doctors, UDP_BYTES, RESPONSE),
    ],
)
def test_an_answer_costs_what_its_octets_cost_however_they_point(
    case: str, read: Callable[[bytes], None], size: int, flags: int
) -> None:
    owners, store = WORST[case]
    if len(store) > size - 200:
        store = store[: size - 200]
    payload = filled(size, flags, owners, store, section=1)
    assert len(payload) > size - 250
    instructions_of(parse, read, payload, most=2000 + PER_OCTET * len(payload))


@st.composite
def woven(draw: st.DrawFn) -> bytes:
    """Owners of labels and of pointers to anything before them, right or wrong."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    labels, pointers = (
        draw(st.sampled_from([b"\x01a", b"\x01\x01", b"\x3f" + b"\x01" * 63])),
        draw(st.floats(0, 1)),
    )
    body, count = bytearray(QUESTION), 0
    marks = [12]
    size = draw(st.sampled_from([400, UDP_BYTES]))
    while len(body) < size:
        at = 12 + len(body)
        owner = bytearray(labels * rng.randrange(draw(st.just(3)) if rng.random() < 0.9 else 120))
        marks += [at + offset for offset in range(0, len(owner), len(labels))]
        if rng.random() < pointers:
            target = rng.choice(marks) if rng.random() < 0.999 else rng.randrange(at)
            marks.append(at + len(owner))
            owner += pointer(min(target, max(at - 1, 0)))
        else:
            owner += b"\x00"
        body += record(bytes(owner))
        count += 1
    return struct.pack("!HHHHHH", 1, RESPONSE, 1, count, 0, 0) + bytes(body)


@settings(max_examples=60, deadline=None)
@given(woven())
def test_names_that_point_anywhere_cost_what_their_octets_cost(payload: bytes) -> None:
    instructions_of(parse, message.message_untrusted, payload, most=2000 + PER_OCTET * len(payload))


def test_many_questions_cost_what_their_octets_cost() -> None:
    count = (TCP_BYTES - 12) // 6
    body = LONGEST + b"\x00\x01\x00\x01" + (pointer(12) + b"\x00\x01\x00\x01") * count
    payload = struct.pack("!HHHHHH", 1, RESPONSE, count, 0, 0, 0) + body[: TCP_BYTES - 12]
    instructions_of(parse, message.message_untrusted, payload, most=2000 + PER_OCTET * len(payload))


def asked(payload: bytes) -> int:
    """The instructions that a resolver takes for a query by TCP, to the last octet of what it says."""
    resolver = Resolver(source=TableSource("mesh.test"), rng=random.Random(1), now=0.0)
    resolver.set_upstreams("ask", [])
    return instructions_of(resolver.handle_query, payload, "ask", Transport.TCP, "t", 1.0, most=PER_QUERY)


def query(body: bytes, *counts: int, flags: int = QUERY) -> bytes:
    return struct.pack("!HHHHHH", 1, flags, *counts) + body


def opt(data: bytes) -> bytes:
    return b"\x00" + struct.pack("!HHIH", c.OPT, 1232, 0, len(data)) + data


@pytest.mark.parametrize("case", WORST)
@pytest.mark.parametrize("size", [UDP_BYTES, TCP_BYTES])
def test_a_query_costs_the_same_whatever_its_length(case: str, size: int) -> None:
    """Refused ones too, and those of other operations."""
    owners, store = WORST[case]
    for section in (1, 2, 3):
        for flags in (QUERY, QUERY | c.TC, QUERY | 0x2000, QUERY | 0x2800):
            asked(filled(size, flags, owners, store[: size - 200], section))


def test_the_worst_query_that_is_not_refused() -> None:
    options = struct.pack("!HHH", 65001, 2, 0) * 64
    far = TCP_BYTES - 1000
    signature = record(b"\x01b" * 60 + pointer(12 + 126), bytes(far), c.TSIG)
    for qname in (LONGEST, b"\x01a" * 124 + b"\x01\x01" + b"\x00", (b"\x3f" + b"a" * 63) * 3 + b"\x00"):
        payload = query(qname + b"\x00\x01\x00\x01" + opt(options) + signature, 1, 0, 0, 2)
        assert message.query_untrusted(payload).opt is not None
        asked(payload)


def test_options_of_one_opt_are_bounded() -> None:
    within = query(QUESTION + opt(bytes(4) * 64), 1, 0, 0, 1)
    beyond = query(QUESTION + opt(bytes(4) * 16_000), 1, 0, 0, 1)
    assert message.query_untrusted(within).opt is not None
    with pytest.raises(FormatError, match="options"):
        message.query_untrusted(beyond)
    asked(beyond)


@pytest.mark.parametrize(
    "counts", [(1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 3), (1, 65535, 65535, 65535)], ids=str
)
def test_a_query_with_records_that_no_query_has_is_refused(counts: tuple[int, ...]) -> None:
    payload = query(QUESTION + record(b"\x00") * 3, *counts)
    with pytest.raises(FormatError, match="queries do not have"):
        message.query_untrusted(payload)


def test_a_question_about_a_difference_of_zones_may_name_the_one_that_is_there() -> None:
    body = b"\x01a\x00\x00\xfb\x00\x01" + record(pointer(12), b"\x00" * 22, c.SOA)
    assert message.query_untrusted(query(body, 1, 0, 1, 0)).rtype == c.IXFR
    with pytest.raises(FormatError):
        message.query_untrusted(query(body + record(b"\x00"), 1, 0, 2, 0))


def test_a_client_that_takes_little_of_a_large_answer_costs_little() -> None:
    rows = bytes(range(4)) * 1
    payload = filled(TCP_BYTES, RESPONSE, same(12), rows, section=1)
    answer, _ = opaque.answer_untrusted(payload, QUESTION, max_ttl_s=3600, max_negative_ttl_s=900)
    assert len(answer.ends) > 5000
    asking = message.query_untrusted(query(QUESTION, 1, 0, 0, 0))

    def relay() -> None:
        assert len(opaque.relay(answer, asking, age_s=1, limit_bytes=512, our_size_bytes=1232)) <= 512

    instructions_of(relay, most=5000)


def test_hints_cost_what_their_octets_cost_and_their_number_is_bounded() -> None:
    """In one record and in many, and with parameters of no octets at all."""
    different = b"".join(struct.pack("!I", number) for number in range(15_000))
    same_again = bytes([192, 0, 2, 1]) * 15_000

    def parameter(data: bytes, key: int = 4) -> bytes:
        return struct.pack("!HH", key, len(data)) + data

    def answer(*data: bytes) -> bytes:
        body = b"".join(record(pointer(12), b"\0\1\0" + one, c.HTTPS) for one in data)
        return struct.pack("!HHHHHH", 1, RESPONSE, 1, len(data), 0, 0) + QUESTION + body

    def read(payload: bytes) -> None:
        with contextlib.suppress(FormatError):
            answer, _ = opaque.answer_untrusted(payload, QUESTION, max_ttl_s=3600, max_negative_ttl_s=900)
            assert len(answer.addresses) <= rebinding.MAX_HINTS

    one_each = [parameter(different[4 * n : 4 * n + 4]) for n in range(2000)]
    for payload in (
        answer(parameter(different)),
        answer(parameter(same_again)),
        answer(parameter(b"", 4) * 15_000),
        answer(parameter(b"", 9) * 15_000),
        answer(*one_each),
        answer(*[parameter(same_again[:4])] * 2000),
    ):
        assert len(payload) > 40_000
        instructions_of(read, payload, most=2000 + PER_OCTET * len(payload))
    for payload in (answer(parameter(different)), answer(*one_each)):
        with pytest.raises(FormatError, match="hints"):
            opaque.answer_untrusted(payload, QUESTION, max_ttl_s=3600, max_negative_ttl_s=900)
    fits, _ = opaque.answer_untrusted(
        answer(parameter(different[: 4 * rebinding.MAX_HINTS])), QUESTION, max_ttl_s=9, max_negative_ttl_s=9
    )
    assert len(fits.addresses) == rebinding.MAX_HINTS


def test_the_counting_counts() -> None:
    def loop(times: int) -> None:
        for _ in range(times):
            pass

    few, many = (instructions_of(loop, times, most=10**6) for times in (10, 1000))
    assert 900 < many - few < 10_000
    with pytest.raises(TooMuchWorkError):
        instructions_of(loop, 1000, most=500)


def test_a_name_has_at_most_sixteen_pointers() -> None:
    for links, fits in ((16, True), (17, False)):
        wire = bytes(STORE_AT) + chain(links)
        at = len(wire) - 2
        if fits:
            assert name.read_untrusted(wire, at) == (name.ROOT, len(wire))
        else:
            with pytest.raises(FormatError, match="pointers"):
                name.read_untrusted(wire, at)
