"""Which function of the agent answers which command.

A command either changes something, through a use-case (`endpoints`, `networks`, `agent`), or shows something, which
`control.present` renders from the view.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

from netagent.commands.presenters import overview_of
from netagent.daemon.agent import Agent
from netagent.endpoints.find import NotHereError, refuse_if_elsewhere
from netagent.interface.command import Command

A = TypeVar("A")

Handler: TypeAlias = Callable[[Agent, Any], Awaitable[A]]

HANDLERS: Final[dict[type[Command[Any]], Handler[Any]]] = {}


async def answer(handler: Handler[A], agent: Agent, request: Command[A]) -> A:
    """Call a handler. If an endpoint is not on this host, ask the other hosts, so that the error can name its own."""
    try:
        return await handler(agent, request)
    except NotHereError as error:
        if agent.cluster is not None:
            refuse_if_elsewhere((await overview_of(agent.cluster)).view, error.thing)
        raise


def answers(command: type[Command[A]]) -> Callable[[Handler[A]], Handler[A]]:
    """Make a function the handler of a command, whose answer it returns."""

    def register(handler: Handler[A]) -> Handler[A]:
        HANDLERS[command] = handler
        return handler

    return register
