"""Messages as bytes, and bytes that are none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from fakes import names
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.port import MAX_ALPN
from netagent.model.records import Port, ServicePort
from netagent.model.sandbox import SandboxId
from netagent.resolver import protocol
from netagent.resolver.name_table import Change, EndpointRow, RowKind
from netagent.resolver.protocol import (
    MAX_MESSAGE_BYTES,
    ProtocolError,
    parse_reply_untrusted,
    parse_request_untrusted,
)
from netagent.resolver.row import fields_of, read_change_untrusted

REQUESTS: list[protocol.Request] = [
    protocol.AgentHello(1, protocol.VERSION, "1.2"),
    protocol.Begin(2),
    protocol.Rows(3, tuple(names.world().items())),
    protocol.Rows(3, ((names.settings()[0], None),)),
    protocol.Commit(4),
    protocol.Listen(5, SandboxId("abc-1")),
    protocol.Listen(5, SandboxId("abc-1"), behind_runtime=True),
    protocol.Close(6, SandboxId("abc-1")),
    protocol.FetchSockets(7, SandboxId("abc-1")),
    protocol.Count(8),
]
REPLIES: list[protocol.Reply] = [
    protocol.ProcessWelcome(1, protocol.VERSION, "1.2", True, (SandboxId("a-1"), SandboxId("b-2"))),
    protocol.Done(2),
    protocol.Refused(3, "because"),
    protocol.FetchedSockets(4, SandboxId("abc-1")),
    protocol.FetchedSockets(4, SandboxId("abc-1"), behind_runtime=True),
    protocol.Statistics(5, {"queries": 12}),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_requests_come_back(request_: Any) -> None:
    assert parse_request_untrusted(protocol.request_bytes(request_)) == request_


@pytest.mark.parametrize("reply", REPLIES, ids=repr)
def test_replies_come_back(reply: Any) -> None:
    assert parse_reply_untrusted(protocol.reply_bytes(reply)) == reply


@pytest.mark.parametrize(
    "message",
    [*(protocol.request_bytes(one) for one in REQUESTS), *(protocol.reply_bytes(one) for one in REPLIES)],
)
def test_more_fields_than_known_are_ignored(message: bytes) -> None:
    longer = msgpack.packb([*msgpack.unpackb(message), "new", 17])
    for parse in (parse_request_untrusted, parse_reply_untrusted):
        try:
            known = parse(message)
        except ProtocolError:
            continue
        assert parse(longer) == known


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for parse in (parse_request_untrusted, parse_reply_untrusted):
        try:
            parse(data)
        except ProtocolError:
            continue


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 9), st.text(max_size=4), st.binary(max_size=17)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=9), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=30,
)


@given(st.integers(0, 9), VALUES)
def test_any_values_are_a_message_or_refused(kind: int, value: Any) -> None:
    data = msgpack.packb([kind, 1, *(value if isinstance(value, list) else [value])])
    for parse in (parse_request_untrusted, parse_reply_untrusted):
        try:
            parse(data)
        except ProtocolError:
            continue


@given(st.integers(0, 12), st.lists(VALUES, max_size=12))
def test_any_rows_are_rows_or_refused(kind: int, fields: Any) -> None:
    try:
        parse_request_untrusted(msgpack.packb([3, 1, [[kind, "id", *fields]]]))
    except ProtocolError:
        return


@pytest.mark.parametrize(("more", "is_behind"), [([], False), ([False], False), ([True, [], 7], True)])
def test_a_row_of_the_release_before_is_not_behind_and_more_fields_are_ignored(
    more: list[Any], is_behind: bool
) -> None:
    array = [5, "e", "a" * 32, "web", "h1", "web", [], [b"abcd"], [["http", 80, "tcp"]], *more]
    (_, row) = read_change_untrusted(array)
    assert isinstance(row, EndpointRow)
    assert row.is_behind is is_behind
    assert fields_of(((RowKind.ENDPOINT, "e"), row))[:10] == [*array[:9], is_behind]


def test_rows_that_service_addresses_add_to_are_read_from_and_by_the_release_before() -> None:
    """Nothing is moved: what is new comes last, and means nothing where it is missing."""
    _, network = names.network(names.APP, "app", "10.0.0.0/24", ranges=("10.1.0.0/24", "fd00:1::/64"))
    network_key = (RowKind.NETWORK, names.APP)
    array = fields_of((network_key, network))
    assert array[9:] == [[[b"\x0a\x01\0\0", 24], [b"\xfd\0\0\1" + bytes(12), 64]]]
    assert read_change_untrusted(array) == (network_key, network)
    assert read_change_untrusted(array[:9]) == (network_key, names.replaced(network, service_ranges=()))

    key, box = names.sandbox("c", names.APP, names.BACK, group="shop", translates=(names.BACK,))
    array = fields_of((key, box))
    assert array[6:] == [[names.BACK]]
    assert read_change_untrusted([*array, "later"]) == (key, box)
    assert read_change_untrusted(array[:6]) == (key, names.replaced(box, translates=frozenset()))


@pytest.mark.parametrize("service", ["web", "web.shop"])
@pytest.mark.parametrize("is_chosen", [True, False])
@pytest.mark.parametrize("is_refused", [True, False])
def test_the_addresses_of_a_service_come_back(service: str, is_chosen: bool, is_refused: bool) -> None:
    key, row = names.service_address(
        service, "10.1.0.7", "fd00:1::7", is_chosen=is_chosen, is_refused=is_refused
    )
    change = key, names.replaced(row, ports=(ServicePort(80, 8080), ServicePort(443, 443)))
    assert change[0] == (
        RowKind.SERVICE_ADDRESS,
        f"{names.APP}/{'1' * 32}/0a010007fd000001000000000000000000000007",
    )
    assert read_change_untrusted([*fields_of(change), "later"]) == change
    earlier = key, names.replaced(change[1], is_refused=False)
    assert read_change_untrusted(fields_of(change)[:9]) == earlier


@pytest.mark.parametrize(
    "row",
    [
        [2, "h", "Not A Label", b"abcd"],
        [2, "h", "h1", b"abcde"],
        [3, "n", "app", [[b"abcd", 33]]],
        [3, "n", "app-1234", [], "Not A Label"],
        [2, "h", "h1", b"abcd", "Zone A"],
        [2, "h", "h1", b"abcd", "a", "far"],
        [3, "n", "app", [], "", False, False, None, "farthest"],
        [5, "e", "n", "web", "h1", "web", [], [], [], False, [], 1001],
        [5, "e", "n", "web", "h1", "web", [], [], [], False, [], 1, "now"],
        [5, "e", "n", "web", "h1", "web", [], [], [], False, [], 1, None, [b"x" * 256]],
        [5, "e", "n", "web", "h1", "web", [], [], [["http", 80, "tcp", ["H2"]]]],
        [4, "c", [], [["db..x", "db"]], True],
        [5, "e", "n", "web", "h1", "web", [], [], [["http", 0, "tcp"]]],
        [5, "e", "n", "web", "h1", "web", [], [], [["http", True, "tcp"]]],
        [1, "", "mesh..internal"],
        [1, "", ".".join(["a" * 63] * 4)],
        [9, "x", 1],
        [3, "n", "app", [], "", False, False, None, "spread", [[b"abcd", 33]]],
        [4, "c", [], [], True, "", [1]],
        [10, "x", "n", "Web", "", "o", [], False, []],
        [10, "x", "n", "web", "Shop", "o", [], False, []],
        [10, "x", "n", "web", "", "o", [b"abc"], False, []],
        [10, "x", "n", "web", "", "o", [], False, [[80, 0]]],
        [10, "x", "n", "web", "", "o", [], False],
        [11, "x", 1],
    ],
)
def test_rows_that_would_lie_are_refused(row: list[Any] | list[int | str]) -> None:
    with pytest.raises(ProtocolError):
        parse_request_untrusted(msgpack.packb([3, 1, [row]]))


def test_messages_are_cut_to_size() -> None:
    rows = dict(
        names.endpoint(i % 250, f"name-{i}", "10.0.0.1", aliases=("a" * 63,) * 20) for i in range(3000)
    )
    rows = {(key[0], f"{i}"): row for i, (key, row) in enumerate(rows.items())}
    many = {(key[0], f"{i}-{key[1]}"): row for i in range(40) for key, row in rows.items()}
    messages = list(protocol.rows_messages(1, many.items()))
    assert len(messages) > 2
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES


def test_a_row_that_fits_into_no_message_is_taken_back_and_the_others_are_sent() -> None:
    first, second, third = (names.endpoint(number, f"web-{number}", "10.0.0.1") for number in (1, 2, 3))
    alpn = tuple(f"{number}{'a' * 31}" for number in range(MAX_ALPN))
    ports = tuple(Port("a", number, alpn=alpn) for number in range(1, 257))
    too_long = second[0], names.replaced(second[1], ports=ports)
    messages = list(protocol.rows_messages(1, [first, too_long, third]))
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES
    sent = [one for message in messages for one in parse_rows(message)]
    assert sent == [first, (second[0], None), third]


def parse_rows(message: bytes) -> tuple[Change, ...]:
    request = parse_request_untrusted(message)
    assert isinstance(request, protocol.Rows)
    return request.changes


def test_a_message_too_long_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        parse_request_untrusted(msgpack.packb([2, 1, b"x" * MAX_MESSAGE_BYTES]))


WORST_PAYLOADS = {
    "small rows": [3, 1, [[2, "", "a", b"abcd"]] * 2900],
    "rows that are removed": [3, 1, [[5, f"{n:x}"] for n in range(4096)]],
    "one row of many labels": [3, 1, [[1, "", ".".join("a" * 120)]] * 120],
    "links": [3, 1, [[4, "c", [], [["a.a.a.a.a.a", "a"]] * 2000, True]]],
    "addresses": [3, 1, [[5, "e", "n", "a", "a", "a", [], [b"abcd"] * 4096, []]]],
    "aliases": [3, 1, [[5, "e", "n", "a", "a", "a", ["a"] * 4096, [], []]]],
    "ports": [3, 1, [[5, "e", "n", "a", "a", "a", [], [], [["a", 1, "a"]] * 4096]]],
    "subnets": [3, 1, [[3, "n", "a", [[b"abcd", 8]] * 4000]]],
    "sandboxes of a resolver": [1, 1, 1, "r", True, ["a"] * 4096],
    "counters": [5, 1, {f"{n:x}": n % 100 for n in range(5000)}],
    "empty arrays": [3, 1, [[]] * 4096],
}


@pytest.mark.parametrize("case", [*WORST_PAYLOADS, "nested", "lengths that are not there", "integers"])
def test_a_message_costs_what_its_octets_cost(case: str) -> None:
    """Instructions, counted; what runs below them is msgpack's C, which reads each octet once and takes no length on
    its word."""
    raw = {
        "nested": b"\x91" * MAX_MESSAGE_BYTES,
        "lengths that are not there": b"\xdd\xff\xff\xff\xff" * (MAX_MESSAGE_BYTES // 5),
        "integers": b"\xdc\x7f\xf0" + b"\x01" * (MAX_MESSAGE_BYTES - 16),
    }
    payload = raw[case] if case in raw else msgpack.packb(WORST_PAYLOADS[case])
    assert 4000 < len(payload) <= MAX_MESSAGE_BYTES

    def parse(read: Callable[..., Any]) -> None:
        with contextlib.suppress(ProtocolError):
            read(payload)

    for read in (parse_request_untrusted, parse_reply_untrusted):
        instructions_of(parse, read, most=1000 + 40 * len(payload))


def test_many_sandboxes_need_several_welcomes() -> None:
    ids = [SandboxId(f"{i:08x}-{i}") for i in range(1201)]
    found = list(protocol.welcomes(9, "r", ids))
    assert [one.more for one in found] == [True, True, False]
    assert sum((one.sandbox_ids for one in found), ()) == tuple(sorted(ids))
    assert max(len(protocol.reply_bytes(one)) for one in found) <= MAX_MESSAGE_BYTES
    assert len(list(protocol.welcomes(9, "r", []))) == 1
