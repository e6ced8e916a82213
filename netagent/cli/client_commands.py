"""What the command line does with each command: send the request, print the answer, return the exit status.

Most commands send what was typed and print the answer as its type is printed (SHOWN in `screen`, LISTS in `tables`);
those that do more have a function of their own (RUNS). All raise errors; main.py turns them into a sentence and an
exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from netagent import __version__
from netagent.cli.render import Column, Printer, WatchedList, clean, some
from netagent.control.client import Client
from netagent.errors import InputError, NetagentError
from netagent.interface.cluster import AgentCommand, InitCommand, JoinCommand, RevokeCommand
from netagent.interface.command import Command
from netagent.interface.description import ApplyCommand, ExportCommand
from netagent.interface.encryption import EncryptOffCommand, EncryptOnCommand, EncryptStatusCommand
from netagent.interface.questions import (
    DoctorCommand,
    EventsCommand,
    FeedCommand,
    LookupCommand,
    MapCommand,
    ReportCommand,
    TopCommand,
    VersionCommand,
)
from netagent.interface.ring_keys import KeysInstallCommand
from netagent.interface.this_host import (
    AddCommand,
    CompletionCommand,
    ConfigCheckCommand,
    ConfigShowCommand,
    InstallCommand,
    McpCommand,
    UninstallCommand,
)

if TYPE_CHECKING:
    import threading

    from netagent.interface import schema

A = TypeVar("A")
C = TypeVar("C", bound=Command[Any])

MAX_TOKEN_BYTES = 16 * 1024
"""A token with a hundred addresses takes 4 KiB."""

WAITING_S = 1.0
"""After this long without an answer, show what the command is waiting for."""

ENCRYPT_S = 60.0
"""Longest wait for all live hosts to encrypt, or to end it. WireGuard repeats a handshake every 5 s."""
ENCRYPT_POLL_S = 0.3

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

    def send(self, request: Command[A]) -> A:
        """Send a request and return the answer; say on a terminal what it waits for."""
        with waiting(type(request).declaration.waits):
            return self.client.send(request)


_ELSEWHERE: Mapping[type[Command[Any]], str] = {
    AddCommand: "netagent.cli.add_command",
    ConfigCheckCommand: "netagent.cli.config_commands",
    ConfigShowCommand: "netagent.cli.config_commands",
    DoctorCommand: "netagent.cli.doctor_command",
    EventsCommand: "netagent.cli.events_command",
    ApplyCommand: "netagent.cli.file_commands",
    ExportCommand: "netagent.cli.file_commands",
    FeedCommand: "netagent.cli.feed_command",
    TopCommand: "netagent.cli.top.command",
    ReportCommand: "netagent.cli.report_command",
    InitCommand: "netagent.cli.install_commands",
    InstallCommand: "netagent.cli.install_commands",
    MapCommand: "netagent.cli.map_command",
    McpCommand: "netagent.cli.mcp_command",
    UninstallCommand: "netagent.cli.install_commands",
}
"""Modules with commands in RUNS that only these commands import."""

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
    kind = type(request)
    if kind in _ELSEWHERE:
        importlib.import_module(_ELSEWHERE[kind])
    if run := RUNS.get(kind):
        return run(session, request)
    if kind.declaration.order:
        return _list(session, request)
    request, printer = request.sent(), session.printer
    kind = type(request)
    answer = session.send(request)
    from netagent.cli.screen import HINTS, LISTS_WARNINGS, SHOWN

    lines, name = SHOWN[kind.answer()]
    printer.one(answer, lambda: lines(printer, request, answer), name=name(answer))
    if printer.form == "name" or kind.answer() not in LISTS_WARNINGS:
        warn(session, answer)
    if kind in HINTS:
        show_hint(session, HINTS[kind](answer))
    is_yes = answer.get("reached", True) and answer.get("why", {}).get("complete", True)
    return DONE if is_yes and answer.get("idle") is not False and answer.get("healthy", True) else NO


def _list(session: CommandContext, request: Command[Any]) -> int:
    from netagent.cli.tables import LISTS

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
    answer: Mapping[str, Any] = session.send(request)
    warnings = answer.get("warnings", [])
    printer.items(answer["items"], columns, empty=_NOTHING_KNOWN if warnings else empty, warnings=warnings)
    warn(session, answer)
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
    request.token = token_from(request.token_file, "`netagent invite` on a member prints one")
    return _send_and_print(session, request)


@runs(KeysInstallCommand)
def keys_install(session: CommandContext, request: KeysInstallCommand) -> int:
    """Install a new ring key, or one from a file."""
    if request.key_file is not None:
        request.key = token_from(
            request.key_file, "`head -c 32 /dev/urandom | base64` makes one", what="ring key"
        )
    return _send_and_print(session, request)


def _send_and_print(session: CommandContext, request: Command[Any]) -> int:
    answer = session.send(request)
    from netagent.cli.screen import SHOWN

    lines, name = SHOWN[request.answer()]
    session.printer.one(answer, lambda: lines(session.printer, request, answer), name=name(answer))
    return DONE


@runs(RevokeCommand)
def revoke(session: CommandContext, request: RevokeCommand) -> int:
    """Ask, and shut hosts out."""
    if not request.yes:
        shown = ", ".join(request.hosts)
        if not sys.stdin.isatty():
            raise InputError(
                f"there is no one to agree to revoke {shown} here", thing="hosts", hint="add --yes"
            )
        sys.stderr.write(
            clean(
                f"{shown} is shut out at once and for ever, and comes back only as a new host, by an invitation."
            )
            + "\nRevoke it? [y/N] "
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise InputError("nothing was changed", thing="hosts", hint="answer y to agree")
    answer = session.send(request)
    from netagent.cli.screen import SHOWN

    lines, name = SHOWN[request.answer()]
    session.printer.one(answer, lambda: lines(session.printer, request, answer), name=name(answer))
    return DONE


@runs(EncryptOnCommand)
def encrypt_on(session: CommandContext, request: EncryptOnCommand) -> int:
    """Turn encryption on."""
    return _encrypt(session, request, "on")


@runs(EncryptOffCommand)
def encrypt_off(session: CommandContext, request: EncryptOffCommand) -> int:
    """Turn encryption off."""
    return _encrypt(session, request, "off")


def _encrypt(session: CommandContext, request: Command[Any], wanted: str) -> int:
    """Send the request; show each step of each host until all live hosts are there, or ENCRYPT_S have passed."""
    from netagent.cli.screen import SHOWN

    answer: Mapping[str, Any] = session.send(request)
    printer, until = session.printer, time.monotonic() + ENCRYPT_S
    shown: dict[str, str] = {}
    while True:
        if not printer.is_machine:
            _show_steps(answer, shown)
        if answer["state"] == wanted or time.monotonic() > until:
            break
        time.sleep(ENCRYPT_POLL_S)
        answer = session.client.send(EncryptStatusCommand())
    lines, name = SHOWN[request.answer()]
    printer.one(answer, lambda: lines(printer, request, answer), name=name(answer))
    if answer["state"] == wanted:
        if answer["away"]:
            said = f"{some(answer['away'])} did not answer, and will follow"
            print(clean(f"netagent: {said}"), file=sys.stderr)
        return DONE
    warn(session, answer)
    return NO


def _show_steps(answer: Mapping[str, Any], shown: dict[str, str]) -> None:
    """Print on standard error what has changed since the last time."""
    for path in answer["paths"]:
        text = f"{path['host']}: {path['state']}, the host is {path['stage'] or 'not heard yet'}"
        if shown.get(path["host_id"]) != text:
            shown[path["host_id"]] = text
            print(clean(text), file=sys.stderr, flush=True)


@runs(LookupCommand)
def lookup(session: CommandContext, request: LookupCommand) -> int:
    """Show the DNS answer that an endpoint would get."""
    answer = session.send(request)
    from netagent.cli.tables import ANSWERS

    answers, printer = answer["answers"], session.printer
    if printer.is_machine:
        printer.json(answer)
    elif printer.form == "name":
        printer.lines(clean(record["data"]) for record in answers)
    elif answers:
        printer.lines([*printer.table(answers, ANSWERS), "", clean(answer["reason"])])
    warn(session, answer)
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
    mine = __version__
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
    from netagent.cli.completion import completion_script

    sys.stdout.write(completion_script(request.shell))
    return DONE


def _watch(
    session: CommandContext, batches: Iterable[list[dict[str, Any]]], columns: Sequence[Column], empty: str
) -> None:
    """Show changes until the user or the agent ends it: JSON prints each event, a terminal the latest state with
    marks, anything else a line for each change."""
    printer, shown, is_first = session.printer, WatchedList(columns), True
    for batch in batches:
        for event in batch:
            if printer.is_machine:
                printer.event(event)
            elif event["event"] == "synced":
                warn(session, event)
                empty = _NOTHING_KNOWN if event.get("warnings") else empty
        now = time.monotonic()
        news = shown.take(batch, now)
        if shown and not printer.is_machine:
            rows = shown.rows(now) if is_first or printer.moves_cursor else news
            printer.watched(rows, columns, empty=empty, is_first=is_first)
            is_first = False


def warn(session: CommandContext, answer: Mapping[str, Any]) -> None:
    """Print warnings on standard error. The JSON answer contains them, except where it is one object per item."""
    if session.printer.form != "json" and not (session.printer.form == "ndjson" and "items" not in answer):
        for notice in answer.get("warnings", []):  # agents of the previous release have none
            print(clean(f"netagent: {notice['message']}; {notice['cure']}"), file=sys.stderr)


def show_hint(session: CommandContext, text: str) -> None:
    """Print advice on standard error, and only to a terminal: scripts read standard output."""
    if session.printer.is_terminal and session.printer.form in ("table", "wide"):
        print(text, file=sys.stderr)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on the terminal what the command waits for and since when, once that takes longer than a second."""
    if not sys.stderr.isatty():
        yield
        return
    import threading

    ended = threading.Event()
    counting = threading.Thread(target=_count, args=(text, ended), daemon=True)
    counting.start()
    try:
        yield
    finally:
        ended.set()
        counting.join()  # what is printed next must not stand on its line


def _count(text: str, ended: threading.Event) -> None:
    """Say each second on one line how long it has taken; remove the line at the end."""
    began_at = time.monotonic()
    pause_s = WAITING_S
    while not ended.wait(pause_s):
        pause_s = 1.0
        passed_s = time.monotonic() - began_at
        print(f"netagent: {text} … {passed_s:.0f} s", end="\x1b[K\r", file=sys.stderr, flush=True)
    if time.monotonic() - began_at >= WAITING_S:
        print(end="\x1b[K", file=sys.stderr, flush=True)


def token_from(file: str | None, source: str, what: str = "token") -> str:
    """Read a secret from a file, from standard input or from the terminal without echo; never from the command line,
    which every user of the host can see. `source` says where users get it."""
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
        raise InputError(f"{file} holds no {what}", thing=str(file), hint=source) from None
    except EOFError:
        raise InputError(f"no {what} was given", thing=what, hint=source) from None
    except OSError as error:
        raise InputError(
            f"cannot read the {what} from {file}: {error.strerror}",
            thing=str(file),
            hint="name a readable file",
        ) from None
    if not text.strip():
        raise InputError(
            f"there is no {what} in {file or 'the input'}",
            thing=what,
            hint=source,
        )
    return text.strip()
