"""The head of an answer: what is understood, what is refused, and that a hostile server costs little."""

from __future__ import annotations

import pytest
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.checks.http_answer import (
    MAX_HEAD_BYTES,
    MAX_PIECES,
    AnswerError,
    HeadReader,
    HttpHead,
    whole_head_untrusted,
)


def read(*pieces: bytes) -> HttpHead | None:
    """Feed the pieces; return what the last one gives."""
    reader, head = HeadReader(), None
    for piece in pieces:
        assert head is None
        head = reader.feed_untrusted(piece)
    return head


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n", HttpHead(200, "", b"ok\n")),
        (b"HTTP/1.0 503 Busy\r\n\r\n", HttpHead(503, "", b"")),
        (b"HTTP/1.1 204\r\n\r\n", HttpHead(204, "", b"")),
        (b"HTTP/1.1 200 OK\n\nshell script", HttpHead(200, "", b"shell script")),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.9/\r\n\r\n",
            HttpHead(302, "http://192.0.2.9/", b""),
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://me:pass@id.example:8443/login;s=1?token=s3cret#x\r\n\r\n",
            HttpHead(302, "https://id.example:8443/login", b""),
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: ?token=s3cret\r\n\r\n", HttpHead(302, "", b"")),
        (b"HTTP/1.1 302 Found\r\nLocation: //u@v@h/a?b\r\n\r\n", HttpHead(302, "//h/a", b"")),
        (
            b"HTTP/1.1 302 Found\r\nLocation: /" + b"x" * 900 + b"\r\n\r\n",
            HttpHead(302, "/" + "x" * 79, b""),
        ),
        (b"HTTP/1.1 302 Found\r\nX: y\r\nlOCATION:\t/login \r\n\r\n", HttpHead(302, "/login", b"")),
        (b"HTTP/1.1 302 Found\r\nLocation: /\x1b[2J\r\n\r\n", HttpHead(302, "", b"")),
        (b"HTTP/1.1 200 OK\r\nLocation: /a\r\n\r\n", HttpHead(200, "", b"")),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", HttpHead(200, "", b"")),
        (b"HTTP/1.1 101 Switching\r\n\r\n\x00\x01", HttpHead(101, "", b"\x00\x01")),
    ],
)
def test_a_head_in_one_piece_or_in_single_bytes(text: bytes, head: HttpHead) -> None:
    assert read(text) == head
    if len(text) < MAX_PIECES:
        end = len(text) - len(head.body)
        assert read(*(text[at : at + 1] for at in range(end))) == HttpHead(head.status, head.location, b"")


PARTS = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.0 301 Moved", b"HTTP/1.1 103 Early", b"HTTP/1.1 2000", b"SSH"),
    *(b"\r\n", b"\n", b"\r\n\r\n", b"\n\n", b"\r", b"Location: /login", b"X: y", b"body"),
]


@given(st.lists(st.sampled_from(PARTS), max_size=8).map(b"".join))
def test_a_head_that_is_whole_at_once_is_what_the_reader_makes_of_it(piece: bytes) -> None:
    found = whole_head_untrusted(piece)
    if found is not None:
        assert found == read(piece)


def test_a_usual_answer_is_whole_at_once() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
    assert whole_head_untrusted(text) == HttpHead(200, "", b"ok\n")
    assert whole_head_untrusted(text[:-5]) is None
    assert whole_head_untrusted(b"HTTP/1.1 200 OK\r\n" + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n") is None


@pytest.mark.parametrize(
    "text", [b"SSH-2.0-OpenSSH_9.9\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/2 200\r\n\r\n"]
)
def test_another_protocol_is_refused_at_its_first_bytes(text: bytes) -> None:
    with pytest.raises(AnswerError, match="does not speak HTTP"):
        read(text)


@pytest.mark.parametrize(
    "text", [b"HTTP/1.1 2000 OK", b"HTTP/1.1 OK", b"HTTP/1.7 200 OK", b"HTTP/1.1 042 Odd"]
)
def test_a_head_without_a_status_is_refused(text: bytes) -> None:
    with pytest.raises(AnswerError, match="does not speak HTTP"):
        read(text + b"\r\n\r\n")


def test_headers_without_an_end_are_refused() -> None:
    line = b"X-Padding: " + b"x" * 1000 + b"\r\n"
    with pytest.raises(AnswerError, match="sent more than 16 KiB of headers"):
        read(b"HTTP/1.1 200 OK\r\n", *[line] * 20)


def test_a_head_in_very_many_pieces_is_refused() -> None:
    with pytest.raises(AnswerError, match="sent its headers in more than 64 pieces"):
        read(b"HTTP/1.1 200 OK\r\n", *[b"x"] * MAX_PIECES)


def test_the_most_laborious_answers_cost_little() -> None:
    endless = [b"HTTP/1.1 200 OK\r\n", *[b"\n \n" * 80] * (MAX_PIECES - 1)]
    interim = [b"HTTP/1.1 100 Go\n\n" * (MAX_HEAD_BYTES // 17)] * MAX_PIECES

    def feed(pieces: list[bytes]) -> None:
        reader = HeadReader()
        try:
            for piece in pieces:
                reader.feed_untrusted(piece)
        except AnswerError:
            pass

    assert instructions_of(feed, endless, most=20_000)
    assert instructions_of(feed, interim, most=20_000)


@given(
    st.lists(
        st.binary(max_size=200) | st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n", b"\n\n"]), max_size=80
    )
)
def test_any_bytes_give_a_head_or_an_error(pieces: list[bytes]) -> None:
    reader = HeadReader()
    for piece in pieces:
        try:
            head = reader.feed_untrusted(piece)
        except AnswerError:
            return
        if head is not None:
            assert 100 <= head.status <= 999
            assert head.location.isprintable()
            return
