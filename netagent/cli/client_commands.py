"""What the command line does with each command: send the request, print the answer, return the exit status.

Most commands send what was typed and print the answer as its type is printed (SHOWN); those that do more have a
function of their own. All raise errors; main.py turns them into a sentence and an exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from netagent.cli import screen, tables
from netagent.cli.parser import program_version
from netagent.cli.render import Column, Printer, clean, counted, span
from netagent.control.client import Client
from netagent.errors import InputError, NetagentError
from netagent.interface.cluster import (
    AgentCommand,
    ForgetCommand,
    InitCommand,
    InviteCommand,
    JoinCommand,
    LeaveCommand,
    MembersCommand,
    WithdrawCommand,
)
from netagent.interface.command import Command
from netagent.interface.containers import (
    NetworkInspectCommand,
    NetworkListCommand,
    NetworkPruneCommand,
    NetworkRemoveCommand,
)
from netagent.interface.questions import (
    EndpointsCommand,
    InspectCommand,
    LookupCommand,
    PingCommand,
    ServicesCommand,
    StatusCommand,
    VersionCommand,
)
from netagent.interface.this_host import CompletionCommand

if TYPE_CHECKING:
    from netagent.interface import schema

C = TypeVar("C", bound=Command[Any])

MAX_TOKEN_BYTES = 16 * 1024
"""A token with a hundred addresses takes 4 KiB."""

WAITING_S = 1.0
"""After this long without an answer, print what the command is waiting for."""

_NOTHING_KNOWN = "nothing is known here"
"""Printed instead of "there is none" where some hosts could not be asked."""

DONE = 0
NO = 1


class CommandContext:
    """What each command is given: a client of the agent, the printer, and all parsed arguments."""

    def __init__(self, client: Client, printer: Printer, arguments: argparse.Namespace) -> None:
        self.client = client
        self.printer = printer
        self.arguments = arguments


Run: TypeAlias = Callable[[CommandContext, Any], int]

RUNS: dict[type[Command[Any]], Run] = {}
"""Commands that do more than send the request and print the answer."""


def runs(
    command: type[C],
) -> Callable[[Callable[[CommandContext, C], int]], Callable[[CommandContext, C], int]]:
    """Make a function what the command line does for a command."""

    def register(run: Callable[[CommandContext, C], int]) -> Callable[[CommandContext, C], int]:
        RUNS[command] = run
        return run

    return register


def run_command(session: CommandContext, request: Command[Any]) -> int:
    """Run a command; return the exit status."""
    kind = type(request)
    if run := RUNS.get(kind):
        return run(session, request)
    answer = session.client.send(request)
    lines = SHOWN[kind.answer()]
    session.printer.one(answer, lambda: lines(answer), name=answer["name"])
    _warn(session, answer)
    return DONE


def _detached(answer: schema.Detached) -> Iterable[str]:
    yield clean(f"detached {answer['name']} ({answer['id'][: tables.ID_DIGITS]}) from {answer['network']}")


SHOWN: Mapping[str, Callable[[Any], Iterable[str]]] = {
    "schema.Detached": _detached,
    "schema.Endpoint": screen.endpoint,
    "schema.Network": screen.network,
}
"""How answers are printed that several commands have."""


@runs(AgentCommand)
def agent(session: CommandContext, request: AgentCommand) -> int:
    """Run the daemon. The only command that imports it."""
    from netagent.cli.grammar import flags
    from netagent.main import main

    return main(request.config, flags(session.arguments))


@runs(InitCommand)
def init(session: CommandContext, request: InitCommand) -> int:
    """Start a cluster."""
    answer = session.client.send(request)
    cluster = answer["cluster"]
    begun = "this host has started" if answer["created"] else "this host is already in"
    session.printer.one(
        answer,
        lambda: [f"{begun} the cluster {cluster['name']}; names end in {cluster['domain']}"],
        name=cluster["name"],
    )
    _hint(session, "`netagent invite` prints a token that lets another host join")
    return DONE


@runs(InviteCommand)
def invite(session: CommandContext, request: InviteCommand) -> int:
    """Print a token."""
    answer = session.client.send(request)
    session.printer.one(answer, lambda: [answer["token"]], name=answer["token"])
    times = "once" if answer["uses"] == 1 else f"{answer['uses']} times"
    _hint(
        session,
        f"on the new host type `netagent join` and paste this token; it works {times}, "
        f"for {span(answer['ttl_s'])}. It is a secret",
    )
    return DONE


@runs(JoinCommand)
def join(session: CommandContext, request: JoinCommand) -> int:
    """Join a cluster."""
    request.token = _token(request.token_file)
    with _waiting("asking the members that the token names; this takes at most 20 s"):
        answer = session.client.send(request)
    cluster = answer["cluster"]
    members = counted(answer["members"], "host")
    how = "joined" if answer["via"] else "this host is already in"
    through = f" through {answer['via']}" if answer["via"] else ""
    session.printer.one(
        answer,
        lambda: [f"{how} the cluster {cluster['name']}{through}; it has {members}"],
        name=cluster["name"],
    )
    return DONE


@runs(LeaveCommand)
def leave(session: CommandContext, request: LeaveCommand) -> int:
    """Leave the cluster."""
    answer = session.client.send(request)
    cluster, detached = answer["cluster"], counted(answer["detached"], "endpoint")
    session.printer.one(
        answer, lambda: [f"left the cluster {cluster['name']}; {detached} detached"], name=cluster["name"]
    )
    return DONE


@runs(ForgetCommand)
def forget(session: CommandContext, request: ForgetCommand) -> int:
    """Evict hosts that are gone for good."""
    answer = session.client.send(request)
    names = [host["name"] for host in answer["hosts"]]

    def lines() -> Iterable[str]:
        if not names:
            yield "no host has been silent for that long"
            return
        took = counted(answer["addresses"], "address", "addresses")
        yield clean(f"forgot {', '.join(names)}; this host took over {took}")
        if answer["unheard"]:
            yield clean(f"not acknowledged by {', '.join(answer['unheard'])}, which may own some of them")

    session.printer.one(answer, lines, name=" ".join(names))
    return DONE


@runs(WithdrawCommand)
def withdraw(session: CommandContext, request: WithdrawCommand) -> int:
    """Withdraw the names of this host."""
    answer = session.client.send(request)
    told = counted(answer["told"], "host")
    session.printer.one(
        answer,
        lambda: [f"withdrew the names of this host and its containers; {told} notified"],
        name=answer["name"],
    )
    return DONE


@runs(StatusCommand)
def status(session: CommandContext, request: StatusCommand) -> int:
    """Show the state of this host on one screen."""
    answer = session.client.send(request)
    session.printer.one(answer, lambda: screen.status(answer), name=answer["host"]["name"])
    return DONE


@runs(MembersCommand)
def members(session: CommandContext, request: MembersCommand) -> int:
    """List the hosts of the cluster."""
    empty = "no members: this host is in no cluster, or has just started one"
    return _list(session, request, tables.MEMBERS, empty)


@runs(NetworkListCommand)
def network_list(session: CommandContext, request: NetworkListCommand) -> int:
    """List the networks of the cluster."""
    empty = "no networks; `netagent network create NAME` creates one"
    return _list(session, request, tables.NETWORKS, empty)


@runs(NetworkInspectCommand)
def network_inspect(session: CommandContext, request: NetworkInspectCommand) -> int:
    """Show one network."""
    answer = session.client.send(request)

    def lines() -> Iterable[str]:
        yield from screen.thing(answer, "network")
        if use := answer.get("use"):  # agents of the previous release do not send it
            yield from screen.space(use)
            yield from session.printer.table(use["owners"], tables.OWNERS)

    session.printer.one(answer, lines, name=answer["name"])
    return DONE


@runs(NetworkRemoveCommand)
def network_remove(session: CommandContext, request: NetworkRemoveCommand) -> int:
    """Remove a network."""
    answer = session.client.send(request)
    detached = f"; {counted(answer['detached'], 'endpoint')} detached" if answer["detached"] else ""
    session.printer.one(
        answer, lambda: [f"removed the network {answer['name']}{detached}"], name=answer["name"]
    )
    return DONE


@runs(NetworkPruneCommand)
def network_prune(session: CommandContext, request: NetworkPruneCommand) -> int:
    """Remove the networks that have no endpoints."""
    answer = session.client.send(request)
    session.printer.items(answer["items"], tables.REMOVED, empty="no network removed: all are in use")
    return DONE


@runs(EndpointsCommand)
def endpoints(session: CommandContext, request: EndpointsCommand) -> int:
    """List the endpoints."""
    empty = "no endpoints; `netagent attach TARGET --network NAME` creates one"
    return _list(session, request, tables.ENDPOINTS, _empty(request, "endpoint", empty))


@runs(ServicesCommand)
def services(session: CommandContext, request: ServicesCommand) -> int:
    """List the services."""
    empty = "no services: no network of the cluster has an endpoint; see `netagent attach --help`"
    return _list(session, request, tables.SERVICES, _empty(request, "service", empty))


@runs(InspectCommand)
def inspect(session: CommandContext, request: InspectCommand) -> int:
    """Show everything known of one object."""
    answer: Mapping[str, Any] = session.client.send(request)
    why = answer.get("why")

    def lines() -> Iterable[str]:
        yield from screen.thing(answer, answer["kind"])
        if answer.get("endpoints"):
            yield ""
            yield from session.printer.table(answer["endpoints"], tables.ENDPOINTS)
        if why:
            yield from screen.origins(why)
            if why["objects"]:
                yield from session.printer.table(why["objects"], tables.OBJECTS)
            yield from screen.fixes(why)

    session.printer.one(answer, lines, name=answer["name"])
    _warn(session, answer)
    return DONE if why is None or why["complete"] else NO


@runs(LookupCommand)
def lookup(session: CommandContext, request: LookupCommand) -> int:
    """Show the DNS answer that an endpoint would get."""
    answer = session.client.send(request)
    answers, printer = answer["answers"], session.printer
    if printer.is_machine:
        printer.json(answer)
    elif printer.form == "name":
        printer.lines(clean(record["data"]) for record in answers)
    elif answers:
        printer.lines([*printer.table(answers, tables.ANSWERS), "", clean(answer["reason"])])
    _warn(session, answer)
    if answers:
        return DONE
    if not printer.is_machine:
        print(
            clean(f"netagent: {answer['name']} {answer['type']}: {answer['status']}; {answer['reason']}"),
            file=sys.stderr,
        )
    return NO


@runs(PingCommand)
def ping(session: CommandContext, request: PingCommand) -> int:
    """Test connectivity; 1 when packets are lost."""
    answer = session.client.send(request)

    def lines() -> Iterator[str]:
        yield from session.printer.table(answer["results"], tables.PING)
        if request.trace or not answer["reached"]:
            yield ""
            yield from session.printer.table(answer["trace"], tables.HOPS)
            yield from (
                f"fix: {clean(hop['fix'])}" for hop in answer["trace"] if not hop["ok"] and hop["fix"]
            )
        yield ""
        where = f" (lost at: {answer['lost_at']})" if answer["lost_at"] else ""
        yield clean(answer["says"]) + where

    session.printer.one(answer, lines, name=answer["says"])
    return DONE if answer["reached"] else NO


@runs(VersionCommand)
def version(session: CommandContext, request: VersionCommand) -> int:
    """Print the versions of this program and, if it answers, of the agent."""
    mine = program_version()
    failure: NetagentError | None = None
    theirs: schema.AgentVersion | None = None
    try:
        theirs = session.client.send(request)
    except NetagentError as error:
        failure = error

    def lines() -> Iterable[str]:
        yield f"command line  {mine}"
        if theirs:
            yield f"agent         {theirs['version']} (Python {theirs['python']}, Linux {theirs['kernel']})"

    running = None if theirs is None else {key: value for key, value in theirs.items() if key != "schema"}
    session.printer.one({"schema": 1, "client": {"version": mine}, "agent": running}, lines, name=mine)
    if failure:
        raise failure
    return DONE


@runs(CompletionCommand)
def completion(_session: CommandContext, request: CompletionCommand) -> int:
    """Print the completion script of a shell."""
    import shtab

    from netagent.cli.grammar import whole_grammar

    sys.stdout.write(shtab.complete(whole_grammar(), shell=request.shell))
    return DONE


def _list(
    session: CommandContext,
    request: MembersCommand | NetworkListCommand | EndpointsCommand | ServicesCommand,
    columns: Sequence[Column],
    empty: str,
) -> int:
    printer = session.printer
    if request.watch:
        _watch(session, session.client.follow(request), columns, empty)
    if request.quiet:
        printer.form = "id"
    answer: Mapping[str, Any] = session.client.send(request)
    warnings = answer.get("warnings", [])
    printer.items(answer["items"], columns, empty=_NOTHING_KNOWN if warnings else empty, warnings=warnings)
    _warn(session, answer)
    return DONE


def _watch(
    session: CommandContext, batches: Iterable[list[dict[str, Any]]], columns: Sequence[Column], empty: str
) -> None:
    """Show changes until the user or the agent ends it: JSON prints each event, a table the latest state."""
    printer = session.printer
    items: dict[str, Mapping[str, Any]] = {}
    synced = False
    for batch in batches:
        for event in batch:
            if printer.is_machine:
                printer.event(event)
            if event["event"] == "synced":
                synced = True
                _warn(session, event)
                if event.get("warnings"):
                    empty = _NOTHING_KNOWN
            elif event["event"] == "removed":
                items.pop(event["item"]["id"], None)
            else:
                items[event["item"]["id"]] = event["item"]
        if synced and not printer.is_machine:
            # Items added later come last, not in the agent's order: sort by the first columns again.
            ordered = sorted(items.values(), key=lambda item: [column.cell(item) for column in columns[:4]])
            if printer.form == "name":
                printer.redraw(str(item["name"]) for item in ordered)
            else:
                printer.redraw(printer.table(ordered, columns) if ordered else [empty])


def _warn(session: CommandContext, answer: Mapping[str, Any]) -> None:
    """Print warnings on standard error. The JSON answer contains them, except where it is one object per item."""
    if session.printer.form != "json" and not (session.printer.form == "ndjson" and "items" not in answer):
        for notice in answer.get("warnings", []):  # agents of the previous release have none
            print(clean(f"netagent: {notice['message']}; {notice['cure']}"), file=sys.stderr)


def _empty(request: EndpointsCommand | ServicesCommand, what: str, unfiltered: str) -> str:
    if request.network or request.host or request.service:
        return f"no {what} matches these filters"
    return f"no {what} in the networks of this host" if request.local else unfiltered


def _hint(session: CommandContext, text: str) -> None:
    """Print advice on standard error, and only to a terminal: scripts read standard output."""
    if session.printer.is_terminal and session.printer.form in ("table", "wide"):
        print(text, file=sys.stderr)


@contextlib.contextmanager
def _waiting(text: str) -> Iterator[None]:
    """Print on the terminal what the command waits for, if that takes longer than a second."""
    timer = threading.Timer(WAITING_S, lambda: print(f"netagent: {text}", file=sys.stderr, flush=True))
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _token(file: str | None) -> str:
    """Read the token from a file, from standard input or from the terminal without echo; never from the command
    line, which every user of the host can see."""
    try:
        if file == "-":
            text = sys.stdin.read(MAX_TOKEN_BYTES)
        elif file is not None:
            with open(file, encoding="ascii") as stream:  # noqa: PTH123 - pathlib takes longer to import
                text = stream.read(MAX_TOKEN_BYTES)
        elif sys.stdin.isatty():
            import getpass

            text = getpass.getpass("Token (not shown): ")
        else:
            raise InputError(
                "`netagent join` needs a token",
                thing="token",
                hint="give it with --token-file FILE or --token-file -",
            )
    except UnicodeDecodeError:
        raise InputError(
            f"{file} holds no token", thing=str(file), hint="`netagent invite` prints one"
        ) from None
    except EOFError:
        raise InputError("no token was given", thing="token", hint="`netagent invite` prints one") from None
    except OSError as error:
        raise InputError(
            f"cannot read the token from {file}: {error.strerror}",
            thing=str(file),
            hint="name a readable file",
        ) from None
    if not text.strip():
        raise InputError(
            f"there is no token in {file or 'the input'}",
            thing="token",
            hint="`netagent invite` on a member prints one",
        )
    return text.strip()
