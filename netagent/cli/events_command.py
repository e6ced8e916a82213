"""`netagent events`: one line per event, never cut, in the time of the reader's own zone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from netagent.cli.client_commands import DONE, CommandContext, runs, warn
from netagent.cli.render import GAP, Item, clean, moment
from netagent.interface.questions import EventsCommand

_KIND_WIDTH = len("conflict")
_MARKS = {"warning": "!", "error": "!!"}


@runs(EventsCommand)
def events(session: CommandContext, request: EventsCommand) -> int:
    """Print the events, and with -f each further one when it happens."""
    if request.watch:
        for batch in session.client.follow(request):
            _print_batch(session, batch, with_host=request.all)
    answer = session.send(request)
    items, printer = answer["items"], session.printer
    if items and not printer.is_machine:
        printer.lines(_plain(item, printer.form, with_host=request.all) for item in items)
    else:
        printer.items(items, (), empty="no events match", warnings=answer.get("warnings", []))
    warn(session, answer)
    return DONE


def _print_batch(session: CommandContext, batch: Iterable[dict[str, Any]], *, with_host: bool) -> None:
    printer = session.printer
    for event in batch:
        if printer.is_machine:
            printer.event(event)
        elif event["event"] == "added":
            printer.lines([_plain(event["item"], printer.form, with_host=with_host)])
        else:
            warn(session, event)
    printer.flush()


def _plain(item: Item, form: str, *, with_host: bool) -> str:
    if form == "name":
        return str(item["id"])
    return line_of(item, is_wide=form == "wide", with_host=with_host)


def line_of(item: Item, *, is_wide: bool = False, with_host: bool = False) -> str:
    """Return an event in one line: when, what kind, what, and by whom."""
    mark = _MARKS.get(item["level"], "")
    author = item["author"]
    parts = [
        moment(item["happened_at"]),
        item["host"] if with_host else "",
        str(item["kind"]).ljust(_KIND_WIDTH),
        f"{mark} {item['text']}".strip(),
        f"by {author_of(author)}" if author["kind"] != "agent" else "",
        item["id"] if is_wide else "",
    ]
    return GAP.join(clean(part) for part in parts if part)


def author_of(author: Item) -> str:
    """Return an author in few words: `root (netagent)`, `docker`, `host h2`."""
    if author["kind"] == "user":
        return f"{author['name']} ({author['program']})" if author["program"] else str(author["name"])
    word = {"gossip": "host ", "token": "token "}.get(author["kind"], "")
    return f"{word}{author['name']}"
