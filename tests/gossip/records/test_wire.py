"""Messages of the record channel: there and back, and no way to hurt the parser."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.errors import WireError
from netgossip.records.wire import (
    COUNTER_LIMIT,
    ENTRIES_LIMIT,
    PARTS_LIMIT,
    Delta,
    DeltaAck,
    Digest,
    Fetch,
    Hello,
    Message,
    Part,
    Request,
    Response,
    Row,
    Same,
    Vector,
    Welcome,
    decode_untrusted,
    encode,
)
from netgossip.slices import at_once
from netgossip.types import Entry, Version

SCOPE, OWNER = bytes(range(16)), "0f" * 16

counters = st.integers(0, COUNTER_LIMIT - 1)
scopes = st.binary(min_size=16, max_size=16)
nodes = scopes.map(bytes.hex)
versions = st.builds(Version, counters, counters)
digests = st.integers(0, (1 << 128) - 1)
payloads = st.binary(max_size=1000)


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    scope, owner, epoch = draw(scopes), draw(nodes), draw(st.integers(1, COUNTER_LIMIT - 1))
    base = draw(st.integers(0, 1000))
    collected = draw(st.integers(0, base)) if base else 0
    steps = draw(st.lists(st.integers(1, 5), max_size=8))
    entries, at = [], base
    for number, step in enumerate(steps):
        at += step
        value = draw(st.none() | st.binary(max_size=40))
        entries.append(Entry(scope, owner, b"k%d" % number, value, Version(epoch, at)))
    head = at + draw(st.integers(0, 3))
    return Delta(
        scope, owner, epoch, base, head, collected, draw(digests), tuple(entries), draw(payloads)[:64]
    )


messages = st.one_of(
    st.builds(Hello, st.binary(min_size=8, max_size=8)),
    st.builds(Welcome, st.binary(min_size=8, max_size=8), counters),
    deltas(),
    st.builds(DeltaAck, scopes, st.booleans(), versions, versions),
    st.builds(Digest, scopes, digests),
    st.builds(Same, scopes, digests),
    st.builds(Vector, scopes, st.booleans(), st.lists(st.builds(Row, nodes, versions, digests)).map(tuple)),
    st.builds(Fetch, scopes, st.lists(st.tuples(nodes, versions), unique_by=lambda row: row[0]).map(tuple)),
    st.builds(Request, counters, payloads),
    st.builds(Response, counters, payloads),
    st.builds(Part, counters, st.just(0), st.integers(2, PARTS_LIMIT), st.binary(min_size=1, max_size=1000)),
)


@given(st.lists(messages, max_size=4))
def test_there_and_back(sent: list[Message]) -> None:
    assert at_once(decode_untrusted(b"".join(at_once(encode(one)) for one in sent))) == sent


def test_a_welcome_of_an_earlier_release_announces_nothing() -> None:
    assert at_once(decode_untrusted(msgpack.packb([2, bytes(8)]))) == [Welcome(bytes(8), 0)]
    assert at_once(encode(Welcome(bytes(8), 9))) == msgpack.packb([2, bytes(8), 9]), (
        "which skips what it does not know"
    )


@pytest.mark.parametrize(
    "fields", [[0, 0, 1, b"x"], [0, 0, PARTS_LIMIT + 1, b"x"], [0, 2, 2, b"x"], [0, 0, 2, b""]]
)
def test_parts_that_can_be_none(fields: list[object]) -> None:
    with pytest.raises(WireError):
        at_once(decode_untrusted(msgpack.packb([11, *fields])))


def test_a_want_names_each_log_once() -> None:
    want = Fetch(SCOPE, ((OWNER, Version(0, 0)), (OWNER, Version(1, 0))))
    with pytest.raises(WireError):
        at_once(decode_untrusted(at_once(encode(want))))


@given(st.binary(max_size=300))
def test_any_bytes_give_messages_or_wire_error(data: bytes) -> None:
    with suppress(WireError):
        at_once(decode_untrusted(data))


@given(messages, st.data())
def test_damaged_messages_give_messages_or_wire_error(message: Message, data: st.DataObject) -> None:
    body = bytearray(at_once(encode(message)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        at_once(decode_untrusted(bytes(body[: data.draw(st.integers(0, len(body)))])))


def test_later_positions_and_later_kinds_are_skipped() -> None:
    longer = msgpack.packb([5, SCOPE, bytes(16), {"later": [1, 2]}])
    unknown = msgpack.packb([99, [[], {}], b"x"])
    after = at_once(encode(Hello(bytes(8))))
    assert at_once(decode_untrusted(longer + unknown + after)) == [Digest(SCOPE, 0), Hello(bytes(8))]


def test_announced_sizes_allocate_nothing() -> None:
    for body in (
        b"\xdd\xff\xff\xff\xff\x07",  # an array of 2**32 positions
        msgpack.packb([7, SCOPE, True, 1 << 40]),  # a vector of 2**40 rows
        b"\x92\x01\xc6\xff\xff\xff\xff",  # a nonce of 2**32 bytes
        b"\x93\x05" + b"\x91" * 200,  # deep nesting
    ):
        with pytest.raises(WireError):
            at_once(decode_untrusted(body))


@pytest.mark.parametrize(
    ("base", "head", "collected", "entries"),
    [
        (5, 4, 0, []),
        (5, 9, 6, []),  # what lies between base and collected would be missed
        (0, 3, 4, []),
        (0, 3, 0, [(b"a", 2), (b"b", 1)]),
        (0, 3, 0, [(b"a", 4)]),
        (2, 3, 0, [(b"a", 2)]),
        (0, 3, 0, [(b"a", 1), (b"a", 2)]),
    ],
)
def test_deltas_that_contradict_themselves(
    base: int, head: int, collected: int, entries: list[tuple[bytes, int]]
) -> None:
    made = tuple(Entry(SCOPE, OWNER, key, b"v", Version(1, sequence)) for key, sequence in entries)
    with pytest.raises(WireError):
        at_once(decode_untrusted(at_once(encode(Delta(SCOPE, OWNER, 1, base, head, collected, 0, made)))))


def test_the_most_rows_that_bytes_can_announce_take_bounded_memory() -> None:
    """The smallest entry takes five bytes: a body of 16 MiB could make three million objects."""
    smallest = [item for n in range(1, ENTRIES_LIMIT + 2) for item in (n.to_bytes(3, "big"), n, None)]
    head = [3, bytes(16), bytes(16), 1, 0, ENTRIES_LIMIT + 1, 0, bytes(16), b""]
    with pytest.raises(WireError, match="more rows"):
        at_once(decode_untrusted(msgpack.packb([*head, ENTRIES_LIMIT + 1, *smallest])))
    allowed = msgpack.packb([*head, ENTRIES_LIMIT, *smallest[:-3]])
    assert len(at_once(decode_untrusted(allowed))) == 1
    with pytest.raises(WireError, match="more rows"):
        at_once(decode_untrusted(allowed * 4))
