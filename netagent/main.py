"""The process `netagent agent`: composition root of the daemon and of the commands that it answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import trio

from netagent import config as configuration
from netagent import log
from netagent.commands.agent_commands import handlers_of
from netagent.commands.presenters import wait_changed
from netagent.config import Config
from netagent.daemon.agent import Agent, LoadConfig
from netagent.daemon.systemd import ServiceManager
from netagent.errors import FailedError, NetagentError

logger = logging.getLogger("netagent")


def main(config_file: str | None, flags: Mapping[str, str]) -> int:
    """Run until a signal; return the exit status."""
    file = Path(config_file) if config_file else None

    def load() -> Config:
        return configuration.load(file, flags, os.environ)

    log.configure(load().log_level)
    for sentence in configuration.unknown_variables(os.environ):
        logger.warning("%s", sentence)
    supervision = ServiceManager(os.environ)
    try:
        trio.run(_run, load, supervision)
    except BaseExceptionGroup as group:
        known, others = group.split(NetagentError)
        if known is not None and others is None:
            raise _first(known) from None
        # Kernel state and the resolver process stay; the service manager restarts the agent.
        logger.critical("the agent failed unexpectedly", exc_info=group)
        return FailedError.exit_status
    return 0


async def _run(load: LoadConfig, supervision: ServiceManager) -> None:
    agent = Agent(load, supervision)
    await agent.run(handlers_of(agent), lambda seen: wait_changed(agent.member(), seen))


def _first(group: BaseExceptionGroup[NetagentError]) -> NetagentError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
