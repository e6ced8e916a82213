"""Serves the tools over standard input and output, by the library of the Model Context Protocol.

Each call is one request of the client that the command line uses, in a thread, so the agent holds it against the role
of who started this: a member of `netagent-ro`, or the holder of a token, gets no more by a model than by typing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from netagent.control.client import Client
from netagent.errors import FailedError, InputError, NetagentError
from netagent.interface.command import Command
from netagent.mcp.quoting import quoted
from netagent.mcp.tools import INSTRUCTIONS, Tool, checked_untrusted, tools

MAX_AT_ONCE: Final = 4
"""Bound of calls that wait for the agent at the same time; beyond it: they wait here."""
MARK_BYTES: Final = 8


class ToolServer:
    """The tools of one client."""

    def __init__(
        self, client: Client, version: str, parse: Callable[[list[str]], Command[Any]] | None
    ) -> None:
        """`parse` makes requests of words; None: the tools change nothing."""
        self._client = client
        self._tools = {one.name: one for one in tools(parse)}
        self._limiter = anyio.CapacityLimiter(MAX_AT_ONCE)
        self.protocol: Server[Any] = Server(
            "netagent",
            version=version,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )

    async def run(self) -> None:
        """Serve until standard input ends."""
        async with stdio_server() as (incoming, outgoing):
            await self.protocol.run(incoming, outgoing, self.protocol.create_initialization_options())

    async def _list(
        self, _context: ServerRequestContext[Any], _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(one) for one in self._tools.values()])

    async def _call(
        self, _context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        mark = os.urandom(MARK_BYTES).hex()
        try:
            answer = await self._answer(params.name, params.arguments or {})
        except NetagentError as error:
            # Its sentence contains names as well.
            text = quoted({"error": error.message, "code": error.code, "hint": error.hint}, mark)
            return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)
        text = quoted(answer, mark)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    async def _answer(self, name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        tool = self._tools.get(name)
        if tool is None:
            raise InputError(f"there is no tool {name[:80]!r}", hint=f"use {', '.join(self._tools)}")
        request = tool.request(checked_untrusted(tool, given))
        send = functools.partial(self._client.send, request)
        answer = await anyio.to_thread.run_sync(send, limiter=self._limiter)
        if not isinstance(answer, Mapping):
            raise FailedError("the agent answered with something else than an object")
        return answer


def serve(client: Client, version: str, parse: Callable[[list[str]], Command[Any]] | None) -> None:
    """Serve until standard input ends."""

    async def main() -> None:
        await ToolServer(client, version, parse).run()

    anyio.run(main, backend="trio")


def _described(tool: Tool) -> types.Tool:
    annotations = types.ToolAnnotations(
        read_only_hint=tool.is_reading,
        destructive_hint=not tool.is_reading,
        idempotent_hint=tool.is_reading,
        open_world_hint=False,
    )
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        annotations=annotations,
    )
