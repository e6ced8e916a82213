"""Which function of the agent answers which command.

A command either changes something, through a use-case (`endpoints`, `networks`, `agent`), or shows something, which
`control.present` renders from the view.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

from netagent.daemon.agent import Agent
from netagent.interface.command import Command

A = TypeVar("A")

Handler: TypeAlias = Callable[[Agent, Any], Awaitable[A]]

HANDLERS: Final[dict[type[Command[Any]], Handler[Any]]] = {}


def answers(command: type[Command[A]]) -> Callable[[Handler[A]], Handler[A]]:
    """Make a function the handler of a command, whose answer it returns."""

    def register(handler: Handler[A]) -> Handler[A]:
        HANDLERS[command] = handler
        return handler

    return register
