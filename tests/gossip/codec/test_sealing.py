"""Label, encryption, and who is refused for what."""

from __future__ import annotations

import contextlib
import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from netgossip.codec.sealing import (
    Keyring,
    StreamReader,
    check_label,
    datagram_overhead_bytes,
    open_datagram_untrusted,
    seal_datagram,
    seal_stream,
)
from netgossip.errors import GossipUsageError, SealError, WireError

KEY, OTHER_KEY = b"0123456789abcdef", b"fedcba9876543210"
LABEL = b"blue"
RNG = random.Random(1)


def sealed(message: bytes = b"\x08hello", key: bytes = KEY, label: bytes = LABEL) -> bytes:
    return seal_datagram(message, keyring=Keyring([key]), label=label, rng=RNG)


def opened(payload: bytes, *keys: bytes) -> bytes:
    return open_datagram_untrusted(payload, keyring=Keyring(keys or [KEY]), label=LABEL)


@given(st.binary(max_size=1200), st.sampled_from([16, 24, 32]), st.binary(min_size=1, max_size=255))
def test_datagram_round_trip(message: bytes, size: int, label: bytes) -> None:
    ring = Keyring([bytes(range(size))])
    payload = seal_datagram(message, keyring=ring, label=label, rng=RNG)
    assert len(payload) == len(message) + datagram_overhead_bytes(label)
    assert open_datagram_untrusted(payload, keyring=ring, label=label) == message


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (sealed(key=OTHER_KEY), "wrong-key"),
        (sealed(label=b"green"), "other-label"),
        (sealed()[6:], "no-label"),
        (b"\x08plain user message of some length that is not sealed", "no-label"),
        (b"\xf4\x04blue\x04plain", "not-encrypted"),
        (b"\xf4\x04blue\x00" + bytes(20), "not-encrypted"),
        (b"\xf4\x04blue" + sealed(), "not-encrypted"),
        (sealed()[:-1], "wrong-key"),
    ],
)
def test_unknown_sources_are_refused_by_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(SealError) as caught:
        opened(payload)
    assert caught.value.reason == reason


@pytest.mark.parametrize("payload", [b"", b"\xf4", b"\xf4\x00", b"\xf4\x09blue", b"GET / HTTP/1.1"])
def test_a_datagram_that_is_no_packet_is_not_reported_as_an_unknown_source(payload: bytes) -> None:
    with pytest.raises(WireError) as caught:
        opened(payload)
    assert not isinstance(caught.value, SealError)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        opened(payload)
    for labelled in (True, False):
        reader = StreamReader(keyring=Keyring([KEY]), label=LABEL, labelled=labelled, limit_bytes=1000)
        with contextlib.suppress(WireError):
            assert reader.feed_untrusted(payload) is None


@pytest.mark.parametrize(
    "padding", [b"", b"\x00", b"\x11" * 17, b"\x01\x02", b"\x03\x03\x03\x03" * 3 + b"\x03\x03\x03\x04"]
)
def test_wrong_padding_of_version_0_is_refused(padding: bytes) -> None:
    nonce = bytes(12)
    payload = b"\x00" + nonce + AESGCM(KEY).encrypt(nonce, padding, b"")
    with pytest.raises(WireError):
        Keyring([KEY]).open_untrusted(payload, b"")


def test_keys_are_rotated_without_a_gap() -> None:
    ring = Keyring([KEY])
    generation = ring.generation
    assert ring.add(OTHER_KEY) == (KEY, OTHER_KEY)
    assert opened(sealed(key=OTHER_KEY), *ring.keys) == b"\x08hello"
    assert ring.use(OTHER_KEY) == (OTHER_KEY, KEY)
    assert ring.primary == OTHER_KEY
    assert ring.remove(KEY) == (OTHER_KEY,)
    assert ring.generation == generation + 3
    with pytest.raises(SealError):
        opened(sealed(), *ring.keys)


def test_wrong_use_of_the_ring_is_refused_and_changes_nothing() -> None:
    ring = Keyring([KEY])
    for wrong in (
        lambda: ring.add(b"short"),
        lambda: ring.use(OTHER_KEY),
        lambda: ring.remove(OTHER_KEY),
        lambda: ring.remove(KEY),
        lambda: Keyring([]),
        lambda: check_label(b""),
        lambda: check_label(bytes(256)),
    ):
        with pytest.raises(GossipUsageError):
            wrong()
    assert ring.keys == (KEY,)


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20), st.booleans())
def test_stream_round_trip_in_any_cut(message: bytes, cuts: list[int], is_dialler: bool) -> None:
    ring = Keyring([KEY])
    data = seal_stream(message, keyring=ring, label=LABEL, rng=RNG, dialler=is_dialler)
    reader = StreamReader(keyring=ring, label=LABEL, labelled=is_dialler, limit_bytes=1000)
    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    results = [reader.feed_untrusted(piece) for piece in (*pieces, rest) if piece]
    assert results[-1] == message
    assert all(result is None for result in results[:-1])


def test_stream_limits_and_unknown_sources() -> None:
    ring = Keyring([KEY])

    def read(data: bytes, *, labelled: bool = True) -> bytes | None:
        reader = StreamReader(keyring=ring, label=LABEL, labelled=labelled, limit_bytes=100)
        return reader.feed_untrusted(data)

    good = seal_stream(b"x", keyring=ring, label=LABEL, rng=RNG, dialler=True)
    for data in (
        good + b"tail",
        b"\xf4\x04blue\x0a\x00\x00\x00\x65",
        b"\xf4\x04blue\x0a\x00\x00\x00\x01",
        b"SSH-2.0",
    ):
        with pytest.raises(WireError):
            read(data)
    for data, reason in (
        (good[6:], "no-label"),
        (b"\xf4\x03red", "other-label"),
        (b"\xf4\x04blue\x06", "not-encrypted"),
    ):
        with pytest.raises(SealError) as caught:
            read(data)
        assert caught.value.reason == reason
    answer_under_other_label = seal_stream(b"x", keyring=ring, label=b"red!", rng=RNG, dialler=False)
    with pytest.raises(SealError):
        read(answer_under_other_label, labelled=False)
