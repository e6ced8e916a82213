"""Frames of the record channel: what opens, what is refused, and what may be repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.codec.sealing import Keyring
from netgossip.errors import EarlyError, SealError, WireError
from netgossip.records.frames import (
    HEADER_BYTES,
    MORE,
    OVERHEAD_BYTES,
    WINDOW,
    FrameReader,
    Opened,
    Opener,
    ReplayWindow,
    Sealer,
    parse_header_untrusted,
)

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))
LABEL = b"cluster"


def sealer(*, key: bytes = KEY, epoch: int = 7, label: bytes = LABEL) -> Sealer:
    return Sealer(node_id=A, epoch=epoch, keyring=Keyring([key]), label=label)


def opener(node_id: str = B, *keys: bytes) -> Opener:
    result = Opener(node_id=node_id, keyring=Keyring(keys or [KEY]), label=LABEL)
    result.know(A)
    return result


def open_frame(target: Opener, frame: bytes, *, stream: bool = False) -> Opened:
    return target.open_untrusted(parse_header_untrusted(frame), frame, stream=stream)


def test_a_frame_opens_for_its_recipient() -> None:
    opened = open_frame(opener(), sealer().seal(B, b"body"))
    assert (opened.sender, opened.epoch, opened.counter, opened.body) == (A, 7, 1, b"body")
    assert not opened.proven


def test_overhead_is_as_announced() -> None:
    assert len(sealer().seal(B, b"body")) == OVERHEAD_BYTES + 4


def test_a_frame_to_one_node_does_not_open_for_another() -> None:
    with pytest.raises(SealError):
        open_frame(opener(C), sealer().seal(B, b"body"))


@pytest.mark.parametrize("position", range(OVERHEAD_BYTES + 4))
def test_every_bit_is_authenticated(position: int) -> None:
    frame = bytearray(sealer().seal(B, b"body"))
    frame[position] ^= 1
    with pytest.raises(WireError):
        open_frame(opener(), bytes(frame))


def test_a_key_or_label_that_is_not_ours_is_refused_with_its_reason() -> None:
    for foreign in (sealer(key=OTHER_KEY), sealer(label=b"other")):
        with pytest.raises(SealError) as caught:
            open_frame(opener(), foreign.seal(B, b"body"))
        assert caught.value.reason == "wrong-key"


def test_unknown_senders_are_refused_before_any_cryptography() -> None:
    target = opener()
    target.forget(A)
    with pytest.raises(WireError, match="not a member"):
        open_frame(target, sealer().seal(B, b"body"))


def test_the_ring_may_change_under_way() -> None:
    ring = Keyring([KEY])
    ours = Sealer(node_id=A, epoch=7, keyring=ring, label=LABEL)
    target = opener(B, KEY, OTHER_KEY)
    assert open_frame(target, ours.seal(B, b"one")).body == b"one"
    ring.add(OTHER_KEY)
    ring.use(OTHER_KEY)
    assert open_frame(target, ours.seal(B, b"two")).body == b"two"


def test_once_admitted_a_session_refuses_repetitions_and_all_before_it() -> None:
    ours, target = sealer(), opener()
    early, proof = ours.seal(B, b"early"), ours.seal(B, b"proof")
    assert target.admit(open_frame(target, proof))
    fresh = ours.seal(B, b"fresh")
    assert open_frame(target, fresh).proven
    for replay in (proof, fresh):
        with pytest.raises(WireError, match="replayed"):
            open_frame(target, replay)
    with pytest.raises(EarlyError):
        open_frame(target, early)


def test_streams_do_not_pass_the_window() -> None:
    ours, target = sealer(), opener()
    proof = ours.seal(B, b"proof")
    target.admit(open_frame(target, proof))
    assert not open_frame(target, proof, stream=True).proven


def test_another_start_is_unproven_until_admitted_higher_or_lower() -> None:
    target = opener()
    target.admit(open_frame(target, sealer(epoch=7).seal(B, b"")))
    for epoch in (9, 3):
        ours = sealer(epoch=epoch)
        frame = open_frame(target, ours.seal(B, b""))
        assert not frame.proven
        assert not target.is_current(frame)
        assert target.admit(frame)
        assert open_frame(target, ours.seal(B, b"")).proven


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=200))
def test_the_window_accepts_each_counter_once_and_none_too_old(counters: list[int]) -> None:
    window, seen, highest = ReplayWindow(0), set[int](), 0
    for counter in counters:
        expected = counter not in seen and counter > highest - WINDOW
        assert window.accept(counter) == expected
        seen.add(counter)
        highest = max(highest, counter)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_the_reader_cuts_frames_from_bytes_in_any_cut(cuts: list[int]) -> None:
    ours = sealer()
    stream = ours.seal(B, b"one", flags=MORE) + ours.seal(B, b"two" * 50)
    reader, frames, at = FrameReader(), [], 0
    for size in [*cuts, len(stream)]:
        frames += reader.feed_untrusted(stream[at : at + size])
        at += size
    assert [header.counter for header, _ in frames] == [1, 2]
    assert b"".join(frame for _, frame in frames) == stream


@given(st.binary(max_size=200))
def test_any_bytes_give_frames_or_wire_error(data: bytes) -> None:
    try:
        for header, frame in FrameReader().feed_untrusted(data):
            open_frame(opener(), frame)
            assert header.sealed_bytes + HEADER_BYTES == len(frame)
    except WireError:
        pass
