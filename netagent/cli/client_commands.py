"""What the command line does with each command: send the request, print the answer, return the exit status.

Most commands send what was typed and print the answer as its type is printed (SHOWN, LISTS); those that do more have
a function of their own (RUNS). All raise errors; main.py turns them into a sentence and an exit status.
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
from netagent.interface.cluster import AgentCommand, InitCommand, InviteCommand, JoinCommand
from netagent.interface.command import Command
from netagent.interface.containers import NetworkInspectCommand
from netagent.interface.questions import LookupCommand, VersionCommand
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


RUNS: dict[type[Command[Any]], Callable[[CommandContext, Any], int]] = {}
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
    kind, printer = type(request), session.printer
    if run := RUNS.get(kind):
        return run(session, request)
    if kind.answer() in LISTS:
        return _list(session, request)
    answer = session.client.send(request)
    lines, name = SHOWN[kind.answer()]
    printer.one(answer, lambda: lines(printer, request, answer), name=name(answer))
    _warn(session, answer)
    if kind in HINTS:
        _hint(session, HINTS[kind](answer))
    is_yes = answer.get("reached", True) and answer.get("why", {}).get("complete", True)
    return DONE if is_yes else NO


# -- answers with one object, by their type --------------------------------------------------------------------------


def _initialised(_printer: Printer, _request: object, answer: schema.Initialised) -> Iterable[str]:
    cluster = answer["cluster"]
    begun = "this host has started" if answer["created"] else "this host is already in"
    yield f"{begun} the cluster {cluster['name']}; names end in {cluster['domain']}"


def _joined(_printer: Printer, _request: object, answer: schema.Joined) -> Iterable[str]:
    how = "joined" if answer["via"] else "this host is already in"
    through = f" through {answer['via']}" if answer["via"] else ""
    members = counted(answer["members"], "host")
    yield f"{how} the cluster {answer['cluster']['name']}{through}; it has {members}"


def _left(_printer: Printer, _request: object, answer: schema.Left) -> Iterable[str]:
    detached = counted(answer["detached"], "endpoint")
    yield f"left the cluster {answer['cluster']['name']}; {detached} detached"


def _forgotten(_printer: Printer, _request: object, answer: schema.ForgetAnswer) -> Iterable[str]:
    if not answer["hosts"]:
        yield "no host has been silent for that long"
        return
    took = counted(answer["addresses"], "address", "addresses")
    yield clean(f"forgot {', '.join(_hosts(answer))}; this host took over {took}")
    if answer["unheard"]:
        yield clean(f"not acknowledged by {', '.join(answer['unheard'])}, which may own some of them")


def _hosts(answer: schema.ForgetAnswer) -> list[str]:
    return [host["name"] for host in answer["hosts"]]


def _withdrawn(_printer: Printer, _request: object, answer: schema.WithdrawAnswer) -> Iterable[str]:
    told = counted(answer["told"], "host")
    yield f"withdrew the names of this host and its containers; {told} notified"


def _network(printer: Printer, request: object, answer: schema.Network) -> Iterable[str]:
    if not isinstance(request, NetworkInspectCommand):
        yield from screen.network(answer)
        return
    yield from screen.thing(answer, "network")
    if use := answer.get("use"):  # agents of the previous release do not send it
        yield from screen.space(use)
        yield from printer.table(use["owners"], tables.OWNERS)


def _removed(_printer: Printer, _request: object, answer: schema.NetworkRemoved) -> Iterable[str]:
    detached = f"; {counted(answer['detached'], 'endpoint')} detached" if answer["detached"] else ""
    yield f"removed the network {answer['name']}{detached}"


def _detached(_printer: Printer, _request: object, answer: schema.Detached) -> Iterable[str]:
    yield clean(f"detached {answer['name']} ({answer['id'][: tables.ID_DIGITS]}) from {answer['network']}")


def _inspected(printer: Printer, _request: object, answer: Mapping[str, Any]) -> Iterable[str]:
    yield from screen.thing(answer, answer["kind"])
    if answer.get("endpoints"):
        yield ""
        yield from printer.table(answer["endpoints"], tables.ENDPOINTS)
    if why := answer.get("why"):
        yield from screen.origins(why)
        if why["objects"]:
            yield from printer.table(why["objects"], tables.OBJECTS)
        yield from screen.fixes(why)


def _ping(printer: Printer, request: Any, answer: schema.Ping) -> Iterable[str]:
    yield from printer.table(answer["results"], tables.PING)
    if request.trace or not answer["reached"]:
        yield ""
        yield from printer.table(answer["trace"], tables.HOPS)
        yield from (f"fix: {clean(hop['fix'])}" for hop in answer["trace"] if not hop["ok"] and hop["fix"])
    yield ""
    yield clean(answer["says"]) + (f" (lost at: {answer['lost_at']})" if answer["lost_at"] else "")


Lines: TypeAlias = Callable[[Printer, Any, Any], Iterable[str]]

SHOWN: Mapping[str, tuple[Lines, Callable[[Any], str]]] = {
    "schema.Initialised": (_initialised, lambda answer: answer["cluster"]["name"]),
    "schema.Invitation": (
        lambda _printer, _request, answer: [answer["token"]],
        lambda answer: answer["token"],
    ),
    "schema.Joined": (_joined, lambda answer: answer["cluster"]["name"]),
    "schema.Left": (_left, lambda answer: answer["cluster"]["name"]),
    "schema.ForgetAnswer": (_forgotten, lambda answer: " ".join(_hosts(answer))),
    "schema.WithdrawAnswer": (_withdrawn, lambda answer: answer["name"]),
    "schema.Network": (_network, lambda answer: answer["name"]),
    "schema.NetworkRemoved": (_removed, lambda answer: answer["name"]),
    "schema.Endpoint": (
        lambda _printer, _request, answer: screen.endpoint(answer),
        lambda answer: answer["name"],
    ),
    "schema.Detached": (_detached, lambda answer: answer["name"]),
    "schema.Status": (
        lambda _printer, _request, answer: screen.status(answer),
        lambda answer: answer["host"]["name"],
    ),
    "schema.Inspection": (_inspected, lambda answer: answer["name"]),
    "schema.Ping": (_ping, lambda answer: answer["says"]),
}
"""How an answer is printed for people, and what `-o name` prints."""

HINTS: Mapping[type[Command[Any]], Callable[[Any], str]] = {
    InitCommand: lambda _: "`netagent invite` prints a token that lets another host join",
    InviteCommand: lambda answer: (
        "on the new host type `netagent join` and paste this token; it works "
        f"{'once' if answer['uses'] == 1 else str(answer['uses']) + ' times'}, for {span(answer['ttl_s'])}. "
        "It is a secret"
    ),
}
"""Advice for the user at a terminal."""


# -- lists -----------------------------------------------------------------------------------------------------------

LISTS: Mapping[str, tuple[Sequence[Column], str, str]] = {
    "schema.Listing[schema.MemberInfo]": (
        tables.MEMBERS,
        "no members: this host is in no cluster, or has just started one",
        "member",
    ),
    "schema.Listing[schema.Network]": (
        tables.NETWORKS,
        "no networks; `netagent network create NAME` creates one",
        "network",
    ),
    "schema.Listing[schema.NetworkRemoved]": (
        tables.REMOVED,
        "no network removed: all are in use",
        "network",
    ),
    "schema.Listing[schema.Endpoint]": (
        tables.ENDPOINTS,
        "no endpoints; `netagent attach TARGET --network NAME` creates one",
        "endpoint",
    ),
    "schema.Listing[schema.Service]": (
        tables.SERVICES,
        "no services: no network of the cluster has an endpoint; see `netagent attach --help`",
        "service",
    ),
}
"""The columns of a list, what is printed if it is empty, and what its items are."""


def _list(session: CommandContext, request: Command[Any]) -> int:
    columns, empty, what = LISTS[type(request).answer()]
    given, printer = vars(request), session.printer
    if given.keys() & {"network", "host", "service"}:
        empty = f"no {what} matches these filters"
    elif "local" in given:
        empty = f"no {what} in the networks of this host"
    if "watch" in given:
        _watch(session, session.client.follow(request), columns, empty)
    if "quiet" in given:
        printer.form = "id"
    answer: Mapping[str, Any] = session.client.send(request)
    warnings = answer.get("warnings", [])
    printer.items(answer["items"], columns, empty=_NOTHING_KNOWN if warnings else empty, warnings=warnings)
    _warn(session, answer)
    return DONE


# -- commands that do more -------------------------------------------------------------------------------------------


@runs(AgentCommand)
def agent(session: CommandContext, request: AgentCommand) -> int:
    """Run the daemon. The only command that imports it."""
    from netagent.cli.grammar import flags
    from netagent.main import main

    return main(request.config, flags(session.arguments))


@runs(JoinCommand)
def join(session: CommandContext, request: JoinCommand) -> int:
    """Join a cluster, with a token from a file or from the terminal."""
    request.token = _token(request.token_file)
    with _waiting("asking the members that the token names; this takes at most 20 s"):
        answer = session.client.send(request)
    lines, name = SHOWN[request.answer()]
    session.printer.one(answer, lambda: lines(session.printer, request, answer), name=name(answer))
    return DONE


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
