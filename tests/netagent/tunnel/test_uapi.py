"""wireguard-go's protocol: requests, and responses as bytes from outside."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.tunnel.peer import NO_PRESHARED_KEY, PeerChange
from netagent.tunnel.uapi import UapiError, check_done_untrusted, encode_set, parse_state_untrusted

KEY, OTHER, PRIVATE = b"a" * 32, b"b" * 32, b"c" * 32
STATE = (
    f"private_key={PRIVATE.hex()}\nlisten_port=7959\n"
    f"public_key={KEY.hex()}\npreshared_key={(b'p' * 32).hex()}\nprotocol_version=1\nendpoint=192.0.2.2:7959\n"
    "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=500000000\ntx_bytes=10\nrx_bytes=20\n"
    "persistent_keepalive_interval=25\nallowed_ip=fd00::1/128\nallowed_ip=10.0.0.1/32\n"
    f"public_key={OTHER.hex()}\npreshared_key={NO_PRESHARED_KEY.hex()}\nendpoint=[2001:db8::1]:1\n"
    "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"
    "persistent_keepalive_interval=0\nerrno=0\n\n"
).encode()


def test_a_state_is_read() -> None:
    found = parse_state_untrusted(STATE)
    assert (found.private_key, found.port, list(found.peers)) == (PRIVATE, 7959, [KEY, OTHER])
    first, second = found.peers.values()
    assert first.peer.endpoint == ("192.0.2.2", 7959)
    assert first.peer.preshared_key == b"p" * 32
    assert first.peer.allowed == ("fd00::1/128", "10.0.0.1/32")
    assert (first.peer.keepalive_s, first.handshake_at_s) == (25, 1700000000.5)
    assert (first.received_bytes, first.sent_bytes) == (20, 10)
    assert second.peer.endpoint == ("2001:db8::1", 1)
    assert (second.peer.preshared_key, second.peer.keepalive_s, second.handshake_at_s) == (None, None, 0.0)


def test_a_request_says_only_what_changes() -> None:
    changes = [
        PeerChange(public_key=KEY, remove=True),
        PeerChange(public_key=OTHER, endpoint=("2001:db8::2", 5), allowed=("fd00::2/128",), keepalive_s=0),
        PeerChange(public_key=PRIVATE, allowed=()),
    ]
    assert encode_set(port=7959, changes=changes).decode().splitlines() == [
        "set=1",
        "listen_port=7959",
        f"public_key={KEY.hex()}",
        "remove=true",
        f"public_key={OTHER.hex()}",
        "endpoint=[2001:db8::2]:5",
        "persistent_keepalive_interval=0",
        "replace_allowed_ips=true",
        "allowed_ip=fd00::2/128",
        f"public_key={PRIVATE.hex()}",
        "replace_allowed_ips=true",
        "",
    ]


def test_a_refusal_is_told_apart() -> None:
    check_done_untrusted(b"errno=0\n\n")
    for response in (b"errno=-98\n\n", b"\n\n", b"", b"errno=0\n", b"x=1\nerrno=0\n\n"):
        with pytest.raises(UapiError):
            check_done_untrusted(response)


@pytest.mark.parametrize(
    "wrong",
    [
        b"public_key=00\n", b"listen_port=70000\n", b"listen_port=-1\n", b"listen_port=1_0\n", b"nothing\n",
        b"listen_port=\xff\n", b"x=" + b"y" * 300 + b"\n",
        b"public_key=" + KEY.hex().encode() + b"\nendpoint=host:1\n",
        b"public_key=" + KEY.hex().encode() + b"\nallowed_ip=fd00::1/129\n",
        b"public_key=" + KEY.hex().encode() + b"\n" + b"allowed_ip=fd00::1/128\n" * 17,
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused(wrong: bytes) -> None:
    with pytest.raises(UapiError):
        parse_state_untrusted(wrong + b"errno=0\n\n")


@given(st.binary() | st.tuples(st.integers(0, len(STATE)), st.binary(max_size=8)).map(
    lambda cut: STATE[: cut[0]] + cut[1] + STATE[cut[0] + len(cut[1]) :]
))  # fmt: skip
def test_no_bytes_raise_anything_else(response: bytes) -> None:
    with contextlib.suppress(UapiError):
        parse_state_untrusted(response)
