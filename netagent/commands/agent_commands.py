"""The handlers of all commands that an agent answers."""

from __future__ import annotations

import functools
from typing import Final

from netagent.commands import cluster, containers, doctor, inspect, lists, lookup, networks, ping, status
from netagent.commands.handlers import HANDLERS
from netagent.control.api import Handlers
from netagent.daemon.agent import Agent

MODULES: Final = (cluster, containers, doctor, inspect, lists, lookup, networks, ping, status)
"""Importing them has filled HANDLERS."""


def handlers_of(agent: Agent) -> Handlers:
    """Return the handlers of an agent."""
    return {command: functools.partial(handler, agent) for command, handler in HANDLERS.items()}
