"""D-Bus messages: calls as the specification has them, and what comes, whatever it is."""

from __future__ import annotations

import contextlib
import itertools
import struct

import pytest
from fakes.system_bus import message, pad, text
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
    BusMessage(SIGNAL, None, "/unit/web", "PropertiesChanged", None, "Unit"),
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


def test_a_message_beyond_the_bound_is_refused_before_it_is_kept() -> None:
    for body, fields in ((MAX_MESSAGE_BYTES, 0), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1)):
        start = struct.pack("<BBBBIII", ord("l"), SIGNAL, 0, 1, body, 1, fields)
        with pytest.raises(FailedError, match="more than"):
            list(MessageBuffer().feed_untrusted(start))
