"""Requests for feeds as bytes."""

from __future__ import annotations

import pytest
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.feeds.request import MAX_LINES, MAX_REQUEST_BYTES, FeedRequest, RequestError, RequestReader

PROMETHEUS = (
    b"GET /prometheus HTTP/1.1\r\nHost: 127.0.0.11:7953\r\nUser-Agent: Prometheus/2.53.3\r\nAccept: application/json"
    b"\r\nX-Prometheus-Refresh-Interval-Seconds: 60\r\nAccept-Encoding: gzip\r\n\r\n"
)


def read_request_untrusted(data: bytes, part: int = 1 << 20) -> FeedRequest | None:
    reader = RequestReader()
    for at in range(0, len(data), part):
        if request := reader.receive_untrusted(data[at : at + part]):
            return request
    return None


def test_what_programs_send_is_read() -> None:
    assert read_request_untrusted(PROMETHEUS) == FeedRequest("prometheus")
    assert read_request_untrusted(PROMETHEUS, part=1) == FeedRequest("prometheus")
    assert read_request_untrusted(PROMETHEUS + PROMETHEUS) == FeedRequest("prometheus")
    assert getattr(read_request_untrusted(PROMETHEUS), "host", None) == "127.0.0.11:7953"
    assert read_request_untrusted(b"GET /services?watch=true HTTP/1.0\r\n\r\n") == FeedRequest(
        "services", watch=True
    )
    through = FeedRequest("services", watch=True, through_services=True)
    assert read_request_untrusted(b"GET /services?upstream=service&watch=1 HTTP/1.0\r\n\r\n") == through
    assert read_request_untrusted(b"GET /caddy?upstream=replicas HTTP/1.0\r\n\r\n") == FeedRequest("caddy")
    assert read_request_untrusted(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n") == FeedRequest("", is_head=True)


@pytest.mark.parametrize("length", range(0, len(PROMETHEUS), 7))
def test_a_part_of_a_request_waits_for_the_rest(length: int) -> None:
    assert read_request_untrusted(PROMETHEUS[:length]) is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /traefik HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /traefik HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET /traefik HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /traefik HTTP/2\r\n\r\n", 400),
        (b"GET traefik HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\na b: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\na: x\ny\r\n\r\n", 400),
        (b"GET /?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?upstream=true HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?watch=service HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01" + b"\0" * MAX_REQUEST_BYTES, 400),
        (b"GET /" + b"a" * MAX_REQUEST_BYTES, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * MAX_LINES + b"\r\n", 431),
    ],
)
def test_everything_else_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        read_request_untrusted(data)
    assert caught.value.status == status


@given(
    st.binary(max_size=200) | st.binary(max_size=40).map(lambda some: PROMETHEUS[:60] + some + b"\r\n\r\n")
)
def test_any_bytes_give_a_request_or_an_error(data: bytes) -> None:
    try:
        read_request_untrusted(data)
    except RequestError:
        return


PIECES = [b"a:\r\n", b"a: " + b"x" * 900 + b"\r\n", b"a:b\r\n", b"\r\n\r", b"a" * 256 + b":\r\n", b" ", b"\0"]


@pytest.mark.parametrize("part", [1, 1 << 20])
@pytest.mark.parametrize("piece", PIECES)
def test_the_work_is_bounded(piece: bytes, part: int) -> None:
    data = (b"GET / HTTP/1.1\r\nHost: a\r\n" + piece * MAX_REQUEST_BYTES)[: MAX_REQUEST_BYTES * 16]

    def read() -> None:
        try:
            read_request_untrusted(data, part)
        except RequestError:
            return

    instructions_of(read, most=1_100_000)
