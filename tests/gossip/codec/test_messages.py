"""memberlist's messages: captured samples, round trips, and invalid bytes."""

from __future__ import annotations

import contextlib
import re
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.codec.messages import (
    USER,
    Ack,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    Message,
    Nack,
    Ping,
    PushPull,
    Suspect,
    UserMessage,
    encode,
    encode_compound,
)
from netgossip.codec.parse import parse_datagram_untrusted, parse_stream_untrusted
from netgossip.codec.sealing import Keyring, StreamReader, open_datagram_untrusted
from netgossip.errors import WireError
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

VECTORS = Path(__file__).parents[2] / "vectors" / "memberlist.txt"
KEYRING = Keyring([b"0123456789abcdef"])


@dataclass(frozen=True)
class Sample:
    title: str
    layer: str
    data: bytes
    meanings: tuple[str, ...]


def samples() -> list[Sample]:
    found = []
    for block in VECTORS.read_text().split("\n\n")[1:]:
        title, *lines = block.strip().splitlines()
        name, layer = re.fullmatch(r"(.*) \[(.*)\]", title).groups()  # type: ignore[union-attr]
        meanings = tuple(line.strip()[2:] for line in lines if line.strip().startswith("= "))
        data = "".join(line for line in lines if not line.strip().startswith("= "))
        found.append(Sample(name, layer, bytes.fromhex("".join(data.split())), meanings))
    return found


def stream_message(data: bytes) -> Message:
    return at_once(parse_stream_untrusted(data, limit_bytes=1 << 20, max_nodes=1000))


def opened(sample: Sample) -> bytes:
    match sample.layer:
        case "sealed datagram":
            return open_datagram_untrusted(sample.data, keyring=KEYRING, label=b"blue")
        case "sealed datagram without label":
            return KEYRING.open_untrusted(sample.data, b"")
        case "sealed stream":
            reader = StreamReader(keyring=KEYRING, label=b"blue", labelled=True, limit_bytes=1000)
            message = reader.feed_untrusted(sample.data)
            assert message is not None
            return message
        case _:
            return sample.data


def is_written(sample: Sample) -> bool:
    """We write no compression, and no user message on a stream."""
    is_user = sample.layer == "stream" and sample.data[0] == USER
    return sample.title != "compressed" and not is_user


def test_all_layers_are_sampled() -> None:
    assert len(samples()) == 17


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample.title)
def test_captured_sample_means_what_it_says(sample: Sample) -> None:
    data = opened(sample)
    messages = (stream_message(data),) if "stream" in sample.layer else parse_datagram_untrusted(data)
    assert tuple(map(repr, messages)) == sample.meanings


@pytest.mark.parametrize(
    "sample",
    [s for s in samples() if s.layer in ("datagram", "stream") and is_written(s)],
    ids=lambda sample: sample.title,
)
def test_captured_sample_is_what_we_would_write(sample: Sample) -> None:
    """Byte for byte, but for the CRC, which we never write."""
    if sample.layer == "stream":
        assert encode(stream_message(sample.data)) == sample.data
    else:
        written = encode_compound([encode(m) for m in parse_datagram_untrusted(sample.data)])
        assert written == (sample.data[5:] if sample.data[0] == 0x0C else sample.data)


NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=128)
NUMBERS = st.integers(0, 2**32 - 1)
HOSTS = st.sampled_from(["192.0.2.1", "10.0.0.1", "2001:db8::1", "fe80::1", "::1"])
ADDRESSES = st.tuples(HOSTS, st.integers(1, 65535))
METAS = st.binary(max_size=512)
VSNS = st.binary(min_size=6, max_size=6)
MEMBERS = st.builds(Member, NAMES, ADDRESSES, st.sampled_from(MemberState), NUMBERS, METAS, VSNS)
DATAGRAM_MESSAGES = st.one_of(
    st.builds(Ping, NUMBERS, NAMES, st.none() | NAMES, st.none() | ADDRESSES),
    st.builds(
        IndirectPing, NUMBERS, NAMES, ADDRESSES, st.booleans(), st.none() | NAMES, st.none() | ADDRESSES
    ),
    st.builds(Ack, NUMBERS, st.binary(max_size=100)),
    st.builds(Nack, NUMBERS),
    st.builds(Alive, NAMES, NUMBERS, ADDRESSES, METAS, VSNS),
    st.builds(Suspect, NAMES, NUMBERS, NAMES),
    st.builds(Dead, NAMES, NUMBERS, NAMES),
    st.builds(UserMessage, st.binary(max_size=100)),
)
STREAM_MESSAGES = st.one_of(
    st.builds(PushPull, st.booleans(), st.lists(MEMBERS, max_size=5).map(tuple), st.binary(max_size=50)),
    st.builds(Ping, NUMBERS, NAMES),
    st.builds(ErrorReply, NAMES),
)


@given(st.lists(DATAGRAM_MESSAGES, min_size=1, max_size=20))
def test_datagram_round_trip(messages: list[Message]) -> None:
    assert parse_datagram_untrusted(encode_compound([encode(m) for m in messages])) == tuple(messages)


@given(STREAM_MESSAGES)
def test_stream_round_trip(message: Message) -> None:
    assert stream_message(encode(message)) == message


@given(
    st.binary(max_size=300)
    | st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 13), st.binary())
)
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        parse_datagram_untrusted(data)
    with contextlib.suppress(WireError):
        stream_message(data)


@given(STREAM_MESSAGES | DATAGRAM_MESSAGES, st.data())
def test_damaged_messages_are_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    with contextlib.suppress(WireError):
        parse_datagram_untrusted(bytes(damaged))
    with contextlib.suppress(WireError):
        stream_message(bytes(damaged))


def packed(kind: int, **fields: object) -> bytes:
    body: bytes = msgpack.packb(fields, use_bin_type=False)
    return bytes([kind]) + body


GOOD_ALIVE = {
    "Addr": bytes([192, 0, 2, 1]),
    "Incarnation": 1,
    "Meta": b"",
    "Node": "n1",
    "Port": 7956,
    "Vsn": b"\x01\x05\x02\x00\x00\x00",
}


@pytest.mark.parametrize(
    "change",
    [
        {"Addr": b"\x7f\x00\x00"},
        {"Addr": bytes(4)},
        {"Addr": bytes([224, 0, 0, 1])},
        {"Addr": None},
        {"Incarnation": -1},
        {"Incarnation": 2**32},
        {"Incarnation": True},
        {"Incarnation": 1.0},
        {"Incarnation": None},
        {"Meta": b"x" * 513},
        {"Meta": 7},
        {"Node": ""},
        {"Node": b"\xff\xfe"},
        {"Node": "a\nb"},
        {"Node": "x" * 129},
        {"Port": 0},
        {"Port": 65536},
        {"Vsn": b"\x01\x05\x02"},
        {"Vsn": [1, 5, 2, 0, 0, 0]},
        {"More": {"inner": 1}},
        {"More": []},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    assert len(parse_datagram_untrusted(packed(4, **GOOD_ALIVE))) == 1
    with pytest.raises(WireError):
        parse_datagram_untrusted(packed(4, **GOOD_ALIVE | change))


def test_unknown_keys_are_ignored_and_v4_in_v6_is_v4() -> None:
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    (alive,) = parse_datagram_untrusted(packed(4, **GOOD_ALIVE | {"Addr": mapped, "Future": 1}))
    assert isinstance(alive, Alive)
    assert alive.address == ("192.0.2.1", 7956)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x07",
        b"\x07\x01\x00\x05ab",
        b"\x07\x01\x00\x00",
        b"\x07\x00tail",
        b"\x0c\x00\x00\x00\x00\x08x",
        b"\x06" + msgpack.packb({"Join": False, "Nodes": 0, "UserStateLen": 0}),
        packed(9, Algo=5, Buf=b""),
        packed(9, Algo=0, Buf=b""),
    ],
    ids=bytes.hex,
)
def test_broken_frames_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_datagram_untrusted(data)


def test_a_nested_bomb_costs_no_memory() -> None:
    compound = b"\x08"
    for _ in range(5):
        compound = encode_compound([compound] * 2)
    deep_list = b"\x00" + b"\x91" * 50_000 + b"\xc0"
    wide = b"\x00\x8f" + b"\xa1a\x90" * 15
    huge = b"\x06" + packed(0, Join=False, Nodes=2**30, UserStateLen=2**30)[1:]
    tracemalloc.start()
    try:
        for data in (compound, deep_list, wide, huge):
            with pytest.raises(WireError):
                parse_datagram_untrusted(data)
            with pytest.raises(WireError):
                stream_message(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * len(deep_list) + 64 * 1024
