"""Dial a member and run the newcomer's half of a join conversation, or that of a host that returns."""

from __future__ import annotations

import os

import trio

from netgossip.errors import GossipError, WireError
from netgossip.join.admission import Credentials, NewcomerConversation
from netgossip.join.identity import Identity
from netgossip.join.invitation import Token
from netgossip.join.readmission import PeerRing, ReturnerConversation
from netgossip.join.wire import Refusal
from netgossip.types import Address

CONVERSATION_S = 10.0
"""Dialling and two round trips; a member that needs longer counts as unreachable."""


class EntryError(GossipError):
    """Joining failed; the text gives the reason in one clause. `final` when another address would not help;
    `passing` when the same one may help soon."""

    def __init__(self, reason: str, *, final: bool, passing: bool = False) -> None:
        super().__init__(reason)
        self.final = final
        self.passing = passing


async def redeem(address: Address, token: Token, identity: Identity, name: str) -> Credentials:
    """Redeem the token at `address` (a member's record port) and return its credentials. Raises EntryError."""
    result = await _run(address, NewcomerConversation(token, identity, name, os.urandom))
    assert isinstance(result, Credentials)
    return result


async def return_to(address: Address, conversation: ReturnerConversation) -> PeerRing:
    """Return to the cluster at `address` (a member's record port); return the member's keys. Raises EntryError."""
    result = await _run(address, conversation)
    assert isinstance(result, PeerRing)
    return result


async def _run(
    address: Address, conversation: NewcomerConversation | ReturnerConversation
) -> Credentials | PeerRing:
    try:
        with trio.fail_after(CONVERSATION_S):
            stream = await trio.open_tcp_stream(*address)
            async with stream:
                return await _converse(stream, conversation)
    except trio.TooSlowError:
        raise EntryError(f"did not answer within {CONVERSATION_S:.0f} s", final=False) from None
    except (OSError, trio.BrokenResourceError) as error:
        raise EntryError(_reason(error), final=False) from None
    except WireError:
        raise EntryError(
            "the program that answers there does not speak netagent's join protocol", final=False
        ) from None


def _reason(error: Exception) -> str:
    """The kernel's error text without trio's wrapping; trio also puts a refused connection into an exception
    group."""
    cause: BaseException = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if not isinstance(cause, OSError) or not cause.errno:
        return "the connection broke"
    # Not `cause.strerror`: where trio raises the error, that is trio's own sentence with a Python tuple. The numbers
    # of resolver errors are negative, and no numbers of the kernel's.
    return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror or "the name has no address"


async def _converse(
    stream: trio.SocketStream, conversation: NewcomerConversation | ReturnerConversation
) -> Credentials | PeerRing:
    await stream.send_all(conversation.open())
    while conversation.result is None:
        data = await stream.receive_some(65536)
        if not data:
            raise EntryError("hung up", final=False)
        reply = conversation.receive(data)
        if reply:
            await stream.send_all(reply)
    if isinstance(conversation.result, Refusal):
        is_passing = conversation.result.is_passing
        raise EntryError(conversation.result.reason, final=not is_passing, passing=is_passing)
    return conversation.result
