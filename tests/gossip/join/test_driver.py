"""The newcomer's side of joining over real sockets: what is said when the member is away, rude or slow."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from netgossip.join import driver
from netgossip.join.admission import Credentials, Invitations
from netgossip.join.driver import EntryError, redeem
from netgossip.join.identity import Identity
from netgossip.join.invitation import Token
from netgossip.types import NodeId

CREDENTIALS = Credentials("c1" * 16, "mesh", "mesh.internal", (b"k" * 32,), (("192.0.2.1", 7956),))
Serve = Callable[[trio.SocketStream], Awaitable[None]]
MEMBER, NEWCOMER = Identity(b"m" * 32), Identity(b"n" * 32)


def address_of(listener: trio.SocketListener) -> tuple[str, int]:
    host, port = listener.socket.getsockname()[:2]
    return str(host), int(port)


@asynccontextmanager
async def member(serve: Serve) -> AsyncIterator[tuple[str, int]]:
    """A listener on loopback that treats each connection by `serve`; gives its address."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield address_of(listener)
        nursery.cancel_scope.cancel()


class Inviter:
    def __init__(self) -> None:
        self.admitted: list[tuple[NodeId, str]] = []
        self.invitations = Invitations(
            MEMBER, os.urandom, lambda: CREDENTIALS, lambda *newcomer: self.admitted.append(newcomer)
        )
        at = (("192.0.2.1", 7957),)
        self.token = self.invitations.create(at, trio.current_time(), ttl_s=60.0, uses=1)

    async def serve(self, stream: trio.SocketStream) -> None:
        conversation = self.invitations.converse()
        async for data in stream:
            for number in range(len(data)):  # byte by byte: cuts mean nothing
                reply, done = conversation.receive(bytes(data[number : number + 1]), trio.current_time())
                if reply:
                    await stream.send_all(reply)
                if done:
                    await stream.aclose()
                    return


async def join(address: tuple[str, int], token: Token, identity: Identity = NEWCOMER) -> Credentials:
    return await redeem(address, token, identity, "h2")


def run(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def function() -> None:
        trio.run(test)

    return function


@run
async def test_a_token_is_redeemed() -> None:
    inviter = Inviter()
    async with member(inviter.serve) as address:
        assert await join(address, inviter.token) == CREDENTIALS
        assert inviter.admitted == [(NEWCOMER.node_id, "h2")]
        assert await join(address, inviter.token) == CREDENTIALS, "the same newcomer may ask again"
        with pytest.raises(EntryError) as caught:
            await join(address, inviter.token, Identity(b"x" * 32))
        assert caught.value.final, "no other address would help"


@run
async def test_an_unreachable_member_is_reported_and_not_final() -> None:
    inviter = Inviter()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = address_of(listener)
    await listener.aclose()
    with pytest.raises(EntryError, match=r"^Connection refused$") as caught:
        await join(address, inviter.token)
    assert not caught.value.final


@pytest.mark.parametrize(
    "speech", [b"", b"SSH-2.0-OpenSSH\r\n" * 9000, os.urandom(64)], ids=["mute", "ssh", "random"]
)
def test_another_program_at_that_port_is_refused_by_reason(speech: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(speech)
        await stream.aclose()

    async def main() -> None:
        inviter = Inviter()
        async with member(serve) as address:
            words = "hung up|does not speak netagent's join protocol|connection broke|Connection reset"
            with pytest.raises(EntryError, match=f"^[a-z ]*({words})[a-z ]*$") as caught:
                await join(address, inviter.token)
            assert not caught.value.final

    trio.run(main)


def test_a_member_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "CONVERSATION_S", 0.2)

    async def main() -> None:
        inviter = Inviter()

        async def stay(stream: trio.SocketStream) -> None:
            await trio.sleep_forever()

        async with member(stay) as address:
            with pytest.raises(EntryError, match="did not answer within"):
                await join(address, inviter.token)

    trio.run(main)


@run
async def test_another_host_at_that_address_gets_nothing_out_of_us() -> None:
    inviter, other = Inviter(), Inviter()
    other.invitations._identity = Identity(b"o" * 32)
    async with member(other.serve) as address:
        with pytest.raises(EntryError):
            await join(address, inviter.token)
    assert other.admitted == []
