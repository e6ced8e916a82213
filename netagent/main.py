"""The process `netagent agent`: composition root of the daemon and of the commands that it answers."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from netagent import config as configuration
from netagent import log
from netagent.commands import (
    cluster,
    containers,
    doctor,
    feed,
    inspect,
    lists,
    lookup,
    networks,
    ping,
    published_services,
    ring_keys,
    services,
    status,
)
from netagent.commands.access import tokens
from netagent.commands.access.limits import limited
from netagent.commands.apply import export
from netagent.commands.apply import run as apply
from netagent.commands.flows import listing as flows
from netagent.commands.flows import suggest as policy_suggest
from netagent.commands.handlers import HANDLERS, answer
from netagent.commands.presenters import wait_changed, whole_cluster
from netagent.commands.sight import events
from netagent.commands.sight.paths import paths_between
from netagent.commands.sight.warning_watch import watch_warnings
from netagent.config import Config
from netagent.control.api import Handlers
from netagent.daemon.agent import Agent, LoadConfig
from netagent.daemon.systemd import ServiceManager
from netagent.errors import FailedError, NetagentError
from netagent.loop_passes import LoopPasses
from netagent.metrics.routes import routes as metrics
from netagent.page.contents import PageSource

logger = logging.getLogger("netagent")

COMMANDS: Final = (
    apply,
    cluster,
    containers,
    doctor,
    events,
    export,
    feed,
    flows,
    inspect,
    lists,
    lookup,
    networks,
    ping,
    policy_suggest,
    published_services,
    ring_keys,
    services,
    status,
    tokens,
)
"""Importing them has filled HANDLERS."""


def main(config_file: str | None, flags: Mapping[str, str]) -> int:
    """Run until a signal; return the exit status."""
    file = Path(config_file) if config_file else None

    def load() -> Config:
        return configuration.load(file, flags, os.environ)

    config = load()
    log.configure(config.log_level, config.log_format)
    for sentence in configuration.unknown_variables(os.environ):
        logger.warning("%s", sentence)
    supervision = ServiceManager(os.environ)
    try:
        passes = LoopPasses()
        trio.run(_run, load, supervision, passes, instruments=[passes])
    except BaseExceptionGroup as group:
        known, others = group.split(NetagentError)
        if known is not None and others is None:
            raise _first(known) from None
        # Kernel state and the resolver process stay; the service manager restarts the agent.
        logger.critical("the agent failed unexpectedly", exc_info=group)
        return FailedError.exit_status
    return 0


async def _run(load: LoadConfig, supervision: ServiceManager, passes: LoopPasses) -> None:
    agent = Agent(load, supervision)
    if agent.http is not None:
        agent.http.add(metrics(agent, passes))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_warnings, agent)
        await serve(agent)
        nursery.cancel_scope.cancel()


async def serve(agent: Agent) -> None:
    """Run an agent, with the handlers of all commands and the page, until it is told to stop."""
    handlers = handlers_of(agent)
    page = PageSource(
        handlers,
        lambda: whole_cluster(agent.member()),
        lambda: agent.member().keys.cluster,
        functools.partial(paths_between, agent),
    )
    await agent.run(
        handlers,
        lambda seen: wait_changed(agent.member(), seen),
        page,
        functools.partial(limited, agent.member),
    )


def handlers_of(agent: Agent) -> Handlers:
    """Return the handlers of all commands that an agent answers."""
    return {command: functools.partial(answer, handler, agent) for command, handler in HANDLERS.items()}


def _first(group: BaseExceptionGroup[NetagentError]) -> NetagentError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
