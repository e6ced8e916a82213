"""What echoes prove, and the layer that is blamed when they don't come back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.doctor.checks.echo_checks import (
    INTERVAL_S,
    PATIENCE_S,
    SMALL_BYTES,
    EchoError,
    EchoSeries,
    Hop,
    PacketCounts,
    echo_request,
    judge,
    reply_untrusted,
)

FINE = Hop("container", "interface eth0", is_wrong=False, says="present")
BROKEN = Hop("kernel", "neighbour 10.1.0.3", is_wrong=True, says="missing")
NOT_LINKED = Hop("policy", "network app", is_wrong=True, says="web is not linked to db")
SMALL_PATH = Hop("path", "VXLAN to h2", is_wrong=True, says="degraded, packets of up to 1350 bytes pass")


def tally(
    size: int | None = SMALL_BYTES, *, lost: bool = False, port: int | None = None, trouble: str = ""
) -> PacketCounts:
    return PacketCounts("10.1.0.3", 3, () if lost else (0.001,) * 3, size, port, trouble)


@pytest.mark.parametrize("size", [28, SMALL_BYTES, 1450])
def test_a_request_makes_a_packet_of_its_size_with_a_right_checksum(size: int) -> None:
    request = echo_request(4, 7, 9, size)
    assert len(request) + 20 == size
    padded = request + bytes(len(request) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert len(echo_request(6, 7, 9, max(size, 48))) + 40 == max(size, 48)


def test_a_reply_is_read_behind_its_ipv4_header() -> None:
    reply = bytes([0]) + echo_request(4, 7, 9, 84)[1:]
    assert reply_untrusted(4, bytes([0x45]) + bytes(19) + reply) == (7, 9)
    assert reply_untrusted(6, bytes([129]) + echo_request(6, 7, 9, 84)[1:]) == (7, 9)
    with pytest.raises(EchoError):
        reply_untrusted(6, echo_request(6, 7, 9, 84))


@given(st.sampled_from([4, 6]), st.binary(max_size=64))
def test_any_bytes_are_a_reply_or_an_error(version: int, message: bytes) -> None:
    try:
        identifier, sequence = reply_untrusted(version, message)
    except EchoError:
        return
    assert 0 <= identifier <= 0xFFFF
    assert 0 <= sequence <= 0xFFFF


@pytest.mark.parametrize(
    ("tallies", "hops", "lost_at", "says"),
    [
        ([tally(), tally(1450)], [FINE], "", "db answers"),
        (
            [tally(lost=True), tally(1450, lost=True)],
            [FINE, BROKEN, SMALL_PATH],
            "kernel",
            "neighbour 10.1.0.3",
        ),
        ([tally(), tally(1450, lost=True)], [FINE, SMALL_PATH], "path", "of 1450 bytes are lost: degraded"),
        ([tally(lost=True)], [FINE], "endpoint", "check the other end"),
        (
            [tally(None, port=80, lost=True, trouble="refused")],
            [BROKEN],
            "endpoint",
            "nothing listens at its port 80",
        ),
        (
            [tally(None, port=80), tally(None, port=80, lost=True, trouble="refused")],
            [FINE],
            "endpoint",
            "nothing listens at its port 80 at 10.1.0.3",
        ),
        ([tally(None, port=80, lost=True, trouble="no answer")], [FINE], "endpoint", "(no answer)"),
        (
            [tally(None, port=80, lost=True, trouble="refused")],
            [FINE, NOT_LINKED],
            "policy",
            "the connection to db is refused: network app: web is not linked to db",
        ),
    ],
)
def test_the_first_layer_that_is_wrong_is_blamed(
    tallies: list[PacketCounts], hops: list[Hop], lost_at: str, says: str
) -> None:
    verdict = judge(tallies, hops, "db")
    assert verdict.lost_at == lost_at
    assert says in verdict.says


def test_a_series_sends_at_intervals_and_ends_with_the_last_answer() -> None:
    series = EchoSeries("10.1.0.1", [84, 1400], 2, 100.0)
    sent: list[tuple[int, int]] = []
    now = 100.0
    while len(sent) < 4:
        (packet,) = series.handle_deadline(now)
        assert series.handle_deadline(now) == []
        sent.append(packet)
        series.note_trouble(1400, "message too long")
        if packet[1] == 84:
            series.handle_answer(packet[0], now + 0.01)
            series.handle_answer(packet[0], now + 0.015)  # the kernel of the other end answered twice
        before, now = now, series.next_deadline()
        if len(sent) < 4:
            assert now == pytest.approx(before + INTERVAL_S)
    assert [size for _, size in sent] == [84, 1400, 84, 1400]
    assert now == pytest.approx(before + PATIENCE_S)
    assert not series.is_over(now - 0.01)
    assert series.is_over(now)
    small, large = series.counts()
    assert (small.sent, len(small.rtts_s), small.trouble) == (2, 2, "")
    assert small.rtts_s == pytest.approx((0.01, 0.01))
    assert (large.sent, large.rtts_s, large.trouble) == (2, (), "message too long")
    for sequence, size in sent:
        if size == 1400:
            series.handle_answer(sequence, now - 0.5)
    assert series.is_over(now - 0.5), "all are answered"
