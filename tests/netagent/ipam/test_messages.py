"""Questions and answers about space, as bytes."""

from __future__ import annotations

import contextlib

import pytest
from fakes.registry import H2, N1, grant, host
from hypothesis import given
from hypothesis import strategies as st

from netagent.ipam.messages import (
    NoSpace,
    RequestError,
    SpaceRequest,
    encode_granted,
    parse_answer_untrusted,
    parse_request_untrusted,
)
from netagent.registry.record_codec import encode


@pytest.mark.parametrize("request_", [SpaceRequest(N1, None, True), SpaceRequest(N1, 17, False)])
def test_a_question_comes_back(request_: SpaceRequest) -> None:
    assert parse_request_untrusted(request_.encode()) == request_


def test_answers_come_back() -> None:
    assert parse_answer_untrusted(encode_granted(grant(N1, 4, 7, H2))) == grant(N1, 4, 7, H2)
    assert parse_answer_untrusted(NoSpace(3, 9).encode()) == NoSpace(3, 9)


def test_only_a_grant_is_an_answer() -> None:
    import msgpack

    with pytest.raises(RequestError, match="not a grant"):
        parse_answer_untrusted(msgpack.packb(["granted", encode(host())]))
    with pytest.raises(RequestError, match="limit"):
        parse_answer_untrusted(bytes(1001))


@given(st.binary(max_size=80))
def test_random_bytes_raise_one_error(data: bytes) -> None:
    for parse in (parse_request_untrusted, parse_answer_untrusted):
        with contextlib.suppress(RequestError):
            parse(data)


@given(st.integers(0, 60), st.integers(0, 255))
def test_damaged_messages_raise_one_error(position: int, value: int) -> None:
    for good in (
        SpaceRequest(N1, 5, True).encode(),
        encode_granted(grant(N1, 4, 7, H2)),
        NoSpace(1, 2).encode(),
    ):
        damaged = bytearray(good)
        damaged[position % len(damaged)] = value
        for parse in (parse_request_untrusted, parse_answer_untrusted):
            with contextlib.suppress(RequestError):
                parse(bytes(damaged))
