"""D-Bus messages: calls as the specification has them, and what comes, whatever it is."""

from __future__ import annotations

import contextlib
import itertools
import struct

import pytest
from fakes.system_bus import message, pad, text
from fakes.work import instructions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.errors import FailedError
from netagent.integrations.systemd.messages import (
    MAX_MESSAGE_BYTES,
    METHOD_RETURN,
    SIGNAL,
    BusMessage,
    MessageBuffer,
    encode_call,
)

CHANGED = message(
    SIGNAL, {1: ("o", "/unit/web"), 2: ("s", "x"), 3: ("s", "PropertiesChanged"), 8: ("g", "sa{sv}as")}, text("Unit")
)  # fmt: skip
STATE = message(METHOD_RETURN, {5: ("u", 3), 8: ("g", "v")}, b"\1s\0\0" + text("deactivating"))
EMPTY = message(METHOD_RETURN, {5: ("u", 4), 7: ("s", ":1.0")})
READ = [
    BusMessage(SIGNAL, None, "/unit/web", "PropertiesChanged"),
    BusMessage(METHOD_RETURN, 3, text="deactivating"),
    BusMessage(METHOD_RETURN, 4),
]


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
def test_messages_are_read_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream, buffer, read = CHANGED + STATE + EMPTY, MessageBuffer(), list[BusMessage]()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for begin, end in itertools.pairwise(edges):
        read += buffer.feed_untrusted(stream[begin:end])
    assert read == READ


def test_a_call_reads_back_as_what_it_says() -> None:
    call = encode_call(9, "org.x", "/a", "org.x.I", "Get", 5, "Unit", "state")
    [back] = MessageBuffer().feed_untrusted(call)
    assert (back.kind, back.path, back.member) == (1, "/a", "Get")
    assert call.endswith(struct.pack("<I", 5) + pad(text("Unit"), 4) + text("state"))
    assert struct.unpack_from("<I", call, 8) == (9,)


@given(data=st.binary(max_size=300), flip=st.tuples(st.integers(0, len(CHANGED) - 1), st.integers(0, 255)))
@settings(max_examples=300)
def test_what_is_no_message_is_refused_by_one_exception(data: bytes, flip: tuple[int, int]) -> None:
    spoilt = bytearray(CHANGED)
    spoilt[flip[0]] = flip[1]
    for stream in (data, b"l\4\1\1" + data, bytes(spoilt)):
        with contextlib.suppress(FailedError):
            list(MessageBuffer().feed_untrusted(stream))


HOSTILE = {
    "a file descriptor": ("h", bytes(4)),
    "arrays in arrays": ("a" * 32 + "y", bytes(64)),
    "structures in arrays": ("a(" * 32 + "y" + ")" * 32, bytes(64)),
    "a variant of variants": ("v", b"\1v\0" * 1000),
    "a text longer than its message": ("s", b"\xff\xff\xff\x7f"),
    "the longest text": ("s", text("x" * (MAX_MESSAGE_BYTES - 200))),
    "the longest array": ("ay", struct.pack("<I", MAX_MESSAGE_BYTES - 200) + bytes(MAX_MESSAGE_BYTES - 200)),
    "a signature that is none": ("!" * 255, b""),
}


@pytest.mark.parametrize("form", HOSTILE)
def test_a_signal_of_any_form_costs_its_header(form: str) -> None:
    signature, body = HOSTILE[form]
    hostile = message(SIGNAL, {1: ("o", "/x"), 2: ("s", "a.b"), 3: ("s", "C"), 8: ("g", signature)}, body)
    assert len(hostile) <= MAX_MESSAGE_BYTES

    stream, found = hostile + CHANGED + STATE + EMPTY, list[BusMessage]()
    instructions_of(lambda: found.extend(MessageBuffer().feed_untrusted(stream)), most=6000)
    assert (found[0].path, found[0].text) == ("/x", None)
    assert found[1:] == READ


def test_a_message_that_cannot_be_read_is_passed_over_and_the_next_one_read() -> None:
    strange = message(SIGNAL, {1: ("o", "/x"), 77: ("x", "12345678")})
    wrong = message(METHOD_RETURN, {5: ("u", 3), 8: ("g", "s")}, b"\xff\xff\xff\x7f")
    assert list(MessageBuffer().feed_untrusted(strange + CHANGED + wrong + STATE + EMPTY)) == READ


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 1000, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 300])
def test_a_message_that_is_too_long_is_passed_over_without_being_kept(cut: int) -> None:
    long = message(SIGNAL, {1: ("o", "/x"), 8: ("g", "ay")}, bytes(MAX_MESSAGE_BYTES))
    stream, buffer = CHANGED + long + STATE + EMPTY, MessageBuffer()
    read = list[BusMessage]()
    for begin in range(0, len(stream), cut):
        read += buffer.feed_untrusted(stream[begin : begin + cut])
        assert len(buffer._unread) < max(cut, 1000)
    assert read == READ


def test_a_message_in_the_other_byte_order_is_passed_over() -> None:
    other = struct.pack(">BBBBIII", ord("B"), SIGNAL, 0, 1, 8, 1, 16) + bytes(24)
    assert list(MessageBuffer().feed_untrusted(CHANGED + other + STATE + EMPTY)) == READ


def test_a_length_that_no_message_has_ends_the_stream() -> None:
    for body, fields in ((2**27, 0), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1)):
        start = struct.pack("<BBBBIII", ord("l"), SIGNAL, 0, 1, body, 1, fields)
        with pytest.raises(FailedError, match="unknown version"):
            list(MessageBuffer().feed_untrusted(start))
