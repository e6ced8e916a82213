"""`netagent mcp`: serve the agent's answers to a language model."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from netagent import __version__
from netagent.cli.client_commands import DONE, CommandContext, runs
from netagent.errors import FailedError
from netagent.interface.command import Command
from netagent.interface.this_host import McpCommand


@runs(McpCommand)
def serve(session: CommandContext, request: McpCommand) -> int:
    """Serve until standard input ends."""
    try:
        from netagent.mcp.server import serve as serve_tools
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("netagent"):
            raise
        raise FailedError(
            f"`netagent mcp` needs the Python package {error.name}",
            thing="mcp",
            hint="install netagent with it: pip install 'netagent[mcp]'",
        ) from None
    serve_tools(session.client, __version__, _parsed if request.allow_write else None)
    return DONE


def _parsed(words: list[str]) -> Command[Any]:
    from netagent.cli.grammar import parse

    # Standard output belongs to the protocol: --help must not print there.
    with contextlib.redirect_stdout(io.StringIO()):
        return parse(words)[0]
