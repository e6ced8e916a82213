"""The commands that the agent answers: send one request, print the answer, return the exit status.

They raise errors; main.py turns them into a sentence and an exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from netagent.cli import screen, tables
from netagent.cli.render import Column, Printer, clean, counted, span
from netagent.control.client import Client, quote
from netagent.errors import InputError, NetagentError
from netagent.interface.notation import duration_of, labels_of, link_of, port_of, target_of

MAX_TOKEN_BYTES = 16 * 1024
"""A token with a hundred addresses takes 4 KiB."""

WAITING_S = 1.0
"""After this long without an answer, print what the command is waiting for."""

PING_S = 20.0
"""Enough for eight addresses, each of which may time out, and for reading the kernel."""

_NOTHING_KNOWN = "nothing is known here"
"""Printed instead of "there is none" where some hosts could not be asked."""

DONE = 0
NO = 1


class CommandContext:
    """What each command is given: its arguments, a client of the agent, and the printer."""

    def __init__(self, arguments: argparse.Namespace, client: Client, printer: Printer) -> None:
        self.arguments = arguments
        self.client = client
        self.printer = printer


Run = Callable[[CommandContext], int]


def agent(session: CommandContext) -> int:
    """Run the daemon. The only command that imports it."""
    from netagent.main import main

    return main(session.arguments)


def init(session: CommandContext) -> int:
    """Start a cluster."""
    answer = session.client.call("POST", "/v1/init", body=_given(cluster=session.arguments.cluster))
    cluster = answer["cluster"]
    begun = "this host has started" if answer["created"] else "this host is already in"
    session.printer.one(
        answer,
        lambda: [f"{begun} the cluster {cluster['name']}; names end in {cluster['domain']}"],
        name=cluster["name"],
    )
    _hint(session, "`netagent invite` prints a token that lets another host join")
    return DONE


def invite(session: CommandContext) -> int:
    """Print a token."""
    arguments = session.arguments
    body = {"ttl_s": duration_of(arguments.ttl), "uses": arguments.uses}
    answer = session.client.call("POST", "/v1/invite", body=body)
    session.printer.one(answer, lambda: [answer["token"]], name=answer["token"])
    times = "once" if answer["uses"] == 1 else f"{answer['uses']} times"
    _hint(
        session,
        f"on the new host type `netagent join` and paste this token; it works {times}, "
        f"for {span(answer['ttl_s'])}. It is a secret",
    )
    return DONE


def join(session: CommandContext) -> int:
    """Join a cluster."""
    arguments = session.arguments
    body = {"addresses": arguments.addresses, "token": _token(arguments.token_file)}
    with _waiting("asking the members that the token names; this takes at most 20 s"):
        answer = session.client.call("POST", "/v1/join", body=body)
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


def leave(session: CommandContext) -> int:
    """Leave the cluster."""
    drain = _drain(session)
    answer = session.client.call("POST", "/v1/leave", body=drain, work_s=sum(drain.values()))
    cluster, detached = answer["cluster"], counted(answer["detached"], "endpoint")
    session.printer.one(
        answer, lambda: [f"left the cluster {cluster['name']}; {detached} detached"], name=cluster["name"]
    )
    return DONE


def forget(session: CommandContext) -> int:
    """Evict hosts that are gone for good."""
    arguments = session.arguments
    body = _given(
        hosts=arguments.hosts,
        dead_for_s=duration_of(arguments.dead_for) if arguments.dead_for else None,
        force=arguments.force,
    )
    answer = session.client.call("POST", "/v1/forget", body=body)
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


def withdraw(session: CommandContext) -> int:
    """Withdraw the names of this host."""
    drain = _drain(session)
    answer = session.client.call("POST", "/v1/withdraw", body=drain, work_s=sum(drain.values()))
    told = counted(answer["told"], "host")
    session.printer.one(
        answer,
        lambda: [f"withdrew the names of this host and its containers; {told} notified"],
        name=answer["name"],
    )
    return DONE


def status(session: CommandContext) -> int:
    """Show the state of this host on one screen."""
    answer = session.client.call("GET", "/v1/status")
    session.printer.one(answer, lambda: screen.status(answer), name=answer["host"]["name"])
    return DONE


def members(session: CommandContext) -> int:
    """List the hosts of the cluster."""
    return _list(
        session,
        "/v1/members",
        tables.MEMBERS,
        "no members: this host is in no cluster, or has just started one",
    )


def network_create(session: CommandContext) -> int:
    """Create a network."""
    arguments = session.arguments
    body = _given(
        name=arguments.name,
        subnets=arguments.subnet,
        mtu_bytes=arguments.mtu,
        internal=arguments.internal,
        policy=arguments.policy,
        multicast=arguments.multicast,
        host_access=arguments.host_access,
    )
    answer = session.client.call("POST", "/v1/networks", body=body)
    session.printer.one(answer, lambda: screen.network(answer), name=answer["name"])
    _warn(session, answer)
    return DONE


def network_list(session: CommandContext) -> int:
    """List the networks of the cluster."""
    return _list(
        session, "/v1/networks", tables.NETWORKS, "no networks; `netagent network create NAME` creates one"
    )


def network_inspect(session: CommandContext) -> int:
    """Show one network."""
    answer = session.client.call("GET", _network(session))

    def lines() -> Iterable[str]:
        yield from screen.thing(answer, "network")
        if use := answer.get("use"):  # agents of the previous release do not send it
            yield from screen.space(use)
            yield from session.printer.table(use["owners"], tables.OWNERS)

    session.printer.one(answer, lines, name=answer["name"])
    return DONE


def network_remove(session: CommandContext) -> int:
    """Remove a network."""
    query = {"force": "true"} if session.arguments.force else {}
    answer = session.client.call("DELETE", _network(session), query=query)
    detached = f"; {counted(answer['detached'], 'endpoint')} detached" if answer["detached"] else ""
    session.printer.one(
        answer, lambda: [f"removed the network {answer['name']}{detached}"], name=answer["name"]
    )
    return DONE


def network_prune(session: CommandContext) -> int:
    """Remove the networks that have no endpoints."""
    answer = session.client.call("POST", "/v1/prune-networks", body={})
    session.printer.items(answer["items"], tables.REMOVED, empty="no network removed: all are in use")
    return DONE


def network_connect(session: CommandContext) -> int:
    """Attach an already attached container to one more network."""
    body = {"target": target_of(session.arguments.target, or_endpoint=True)}
    answer = session.client.call("POST", _network(session) + "/connect", body=body)
    session.printer.one(answer, lambda: screen.endpoint(answer), name=answer["name"])
    return DONE


def network_disconnect(session: CommandContext) -> int:
    """Detach a container from a network."""
    body = {"target": target_of(session.arguments.target, or_endpoint=True)}
    answer = session.client.call("POST", _network(session) + "/disconnect", body=body)
    _detached(session, answer)
    return DONE


def attach(session: CommandContext) -> int:
    """Attach a container to a network."""
    arguments = session.arguments
    body = _given(
        target=target_of(arguments.target),
        network=arguments.network,
        name=arguments.name,
        service=arguments.service,
        aliases=arguments.alias,
        links=[link_of(text) for text in arguments.link],
        ports=[port_of(text) for text in arguments.expose],
        publish=arguments.publish,
        labels=labels_of(arguments.label),
        ip=arguments.ip,
        mac=arguments.mac,
        ifname=arguments.ifname,
    )
    answer = session.client.call("POST", "/v1/endpoints", body=body)
    session.printer.one(answer, lambda: screen.endpoint(answer), name=answer["name"])
    _warn(session, answer)
    return DONE


def detach(session: CommandContext) -> int:
    """Detach an endpoint."""
    drain = _drain(session)
    query = {key: str(value) for key, value in drain.items()}
    answer = session.client.call("DELETE", _endpoint(session), query=query, work_s=sum(drain.values()))
    _detached(session, answer)
    return DONE


def link(session: CommandContext) -> int:
    """Make a service resolvable under an alias in one container."""
    answer = session.client.call("POST", _endpoint(session) + "/links", body=link_of(session.arguments.link))
    session.printer.one(answer, lambda: screen.endpoint(answer), name=answer["name"])
    return DONE


def unlink(session: CommandContext) -> int:
    """Remove a link."""
    query = {key: str(value) for key, value in link_of(session.arguments.link).items()}
    answer = session.client.call("DELETE", _endpoint(session) + "/links", query=query)
    session.printer.one(answer, lambda: screen.endpoint(answer), name=answer["name"])
    return DONE


def publish(session: CommandContext) -> int:
    """Forward a port of this host to a container."""
    body = {"port": session.arguments.port}
    answer = session.client.call("POST", _endpoint(session) + "/published", body=body)
    session.printer.one(answer, lambda: screen.endpoint(answer), name=answer["name"])
    return DONE


def unpublish(session: CommandContext) -> int:
    """Stop forwarding a port."""
    query = {"port": session.arguments.port}
    answer = session.client.call("DELETE", _endpoint(session) + "/published", query=query)
    session.printer.one(answer, lambda: screen.endpoint(answer), name=answer["name"])
    return DONE


def endpoints(session: CommandContext) -> int:
    """List the endpoints."""
    empty = "no endpoints; `netagent attach TARGET --network NAME` creates one"
    return _list(session, "/v1/endpoints", tables.ENDPOINTS, _empty(session, "endpoint", empty))


def services(session: CommandContext) -> int:
    """List the services."""
    empty = "no services: no network of the cluster has an endpoint; see `netagent attach --help`"
    return _list(session, "/v1/services", tables.SERVICES, _empty(session, "service", empty))


def inspect(session: CommandContext) -> int:
    """Show everything known of one object."""
    query = {
        "thing": _text(session, "thing"),
        "why": "true" if session.arguments.why else "",
        "local": _local(session),
    }
    answer = session.client.call("GET", "/v1/inspect", query=query)
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


def lookup(session: CommandContext) -> int:
    """Show the DNS answer that an endpoint would get."""
    arguments = session.arguments
    query = {
        "name": _text(session, "name"),
        "type": arguments.type,
        "from": arguments.from_endpoint or "",
        "local": _local(session),
    }
    answer = session.client.call("GET", "/v1/lookup", query=query)
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


def ping(session: CommandContext) -> int:
    """Test connectivity; 1 when packets are lost."""
    arguments = session.arguments
    if len(arguments.ends) > 2:
        raise InputError(
            "ping takes one or two arguments", thing="ping", hint="type `netagent ping [FROM] TO[:PORT]`"
        )
    start, to = ["", *arguments.ends][-2:]
    query = {
        "from": start,
        "to": to,
        "count": str(arguments.count),
        "trace": "true" if arguments.trace else "false",
    }
    answer = session.client.call("GET", "/v1/ping", query=query, work_s=PING_S + arguments.count)

    def lines() -> Iterator[str]:
        yield from session.printer.table(answer["results"], tables.PING)
        if arguments.trace or not answer["reached"]:
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


def version(session: CommandContext) -> int:
    """Print the versions of this program and, if it answers, of the agent."""
    mine = program_version()
    failure: NetagentError | None = None
    theirs: dict[str, Any] | None = None
    try:
        theirs = session.client.call("GET", "/v1/version")
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


def program_version() -> str:
    """Return the version of this program, as installed."""
    import importlib.metadata

    return importlib.metadata.version("netagent")


def _list(session: CommandContext, path: str, columns: Sequence[Column], empty: str) -> int:
    arguments, printer = session.arguments, session.printer
    query = {field: getattr(arguments, field, None) or "" for field in ("network", "host", "service")}
    query["local"] = _local(session)
    if getattr(arguments, "watch", False):
        _watch(session, session.client.watch(path, query=query), columns, empty)
    if getattr(arguments, "quiet", False):
        printer.form = "id"
    answer = session.client.call("GET", path, query=query)
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


def _detached(session: CommandContext, answer: Mapping[str, Any]) -> None:
    line = f"detached {answer['name']} ({answer['id'][: tables.ID_DIGITS]}) from {answer['network']}"
    session.printer.one(answer, lambda: [clean(line)], name=answer["name"])


def _empty(session: CommandContext, what: str, unfiltered: str) -> str:
    filters = [getattr(session.arguments, field) for field in ("network", "host", "service")]
    if any(filters):
        return f"no {what} matches these filters"
    return f"no {what} in the networks of this host" if _local(session) else unfiltered


def _local(session: CommandContext) -> str:
    """Return the query for `--local`; "" if it was not given, so that agents of the previous release accept it."""
    return "true" if getattr(session.arguments, "local", False) else ""


def _network(session: CommandContext) -> str:
    return "/v1/networks/" + quote(_text(session, "network"))


def _endpoint(session: CommandContext) -> str:
    return "/v1/endpoints/" + quote(_text(session, "endpoint"))


def _text(session: CommandContext, argument: str) -> str:
    text: str = getattr(session.arguments, argument)
    if not text.strip():
        raise InputError(f"the name of the {argument} is empty", thing=argument, hint="give a name")
    return text


def _drain(session: CommandContext) -> dict[str, float]:
    """Return the field for `--drain`, if it was given."""
    text = session.arguments.drain
    return {} if text is None else {"drain_s": duration_of(text)}


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields that were given; the agent fills in defaults for the others."""
    return {key: value for key, value in fields.items() if value not in (None, "", [], {}, False)}


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
