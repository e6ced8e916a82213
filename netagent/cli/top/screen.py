"""What `netagent top` shows, as lines of a screen of any size. Pure.

The screen is a head of three lines, then members, services and events. What needs a look comes first: members that
are not well, services with endpoints that are not up. Each part gets the rows that it needs, up to its share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from netagent.cli.render import GAP, Column, Item, clean, counted, cut, fitted, span
from netagent.cli.tables import MEMBERS, SERVICES

MAX_EVENTS = 200
"""Bound of events that are kept for the screen; beyond it: the oldest go."""
CHURN_S = 60.0
_CALM = 8

BOLD, DIM, WARNING, TROUBLE, PLAIN = "bold", "dim", "warning", "trouble", ""
"""Styles of a line. Each line also says in words what its style means: not every terminal has colours."""

Line = tuple[str, str]
"""Text and style."""


class TopState:
    """What is known so far. The methods take what the agent says, in any order; times are in seconds of one clock."""

    def __init__(self) -> None:
        self.status: Item | None = None
        self.trouble = ""
        """Why the agent does not answer; what was known stays on the screen."""
        self.members: dict[str, Item] = {}
        self.services: dict[str, Item] = {}
        self.events: deque[Item] = deque(maxlen=MAX_EVENTS)
        self.queries_per_s: float | None = None
        self._asked: tuple[float, int] | None = None
        self._changes: deque[tuple[float, int]] = deque()
        self._synced: set[str] = set()

    def take_status(self, status: Item, now_s: float) -> None:
        """Take an answer of `status`."""
        queries = status["dns"]["queries"]
        if self._asked is not None and now_s > self._asked[0]:
            # A new resolver process counts from zero.
            more = queries - self._asked[1] if queries >= self._asked[1] else queries
            self.queries_per_s = more / (now_s - self._asked[0])
        self._asked = (now_s, queries)
        self.status, self.trouble = status, ""

    def take(self, table: str, batch: Sequence[Item], now_s: float) -> None:
        """Take events of a watched list: `members`, `services` or `events`."""
        changed = 0
        for event in batch:
            if event["event"] == "synced":
                self._synced.add(table)
            elif table == "events":
                self.events.append(event["item"])
            else:
                rows = self.members if table == "members" else self.services
                if event["event"] == "removed":
                    rows.pop(event["item"]["id"], None)
                else:
                    rows[event["item"]["id"]] = event["item"]
                changed += table == "services" and table in self._synced
        if changed:
            self._changes.append((now_s, changed))

    def begin_again(self, table: str) -> None:
        """Forget a list whose watch begins anew: what went meanwhile is not said again."""
        self._synced.discard(table)
        if table == "events":
            self.events.clear()
        else:
            (self.members if table == "members" else self.services).clear()

    def churn(self, now_s: float) -> int:
        """Return the changes to services within the last minute."""
        while self._changes and self._changes[0][0] < now_s - CHURN_S:
            self._changes.popleft()
        return sum(count for _, count in self._changes)


def frame(state: TopState, width: int, height: int, now_s: float, offset: int = 0) -> list[Line]:
    """Return the lines of a screen, at most `height`, each at most `width` wide. `offset`: services scrolled past."""
    lines = [(cut(text, width), style) for text, style in _head(state, now_s)]
    room = max(0, height - len(lines) - 1)
    members = sorted(state.members.values(), key=lambda one: (_is_well(one), str(one["name"])))
    services = sorted(
        state.services.values(), key=lambda one: (not one["not_up"], str(one["network"]), str(one["name"]))
    )
    rows_of_events = min(len(state.events), max(2, room // 4)) if state.events else 0
    rows_of_members = min(len(members), max(2, room // 3))
    rows_of_services = max(0, room - rows_of_members - rows_of_events - 6)
    offset = max(0, min(offset, len(services) - rows_of_services))
    lines += _part(
        "members", len(members), members[:rows_of_members], MEMBERS, width=width, style=_style_of_member
    )
    shown = services[offset : offset + rows_of_services]
    lines += _part(
        "services", len(services), shown, SERVICES, width=width, style=_style_of_service, first=offset
    )
    if rows_of_events:
        lines.append(("", PLAIN))
        lines.append((cut("events", width), BOLD))
        lines += [
            (cut(_event(one), width), _style_of_event(one)) for one in list(state.events)[-rows_of_events:]
        ]
    keys = "q quits; up, down, page up and page down scroll the services"
    return [*lines[: max(0, height - 1)], (cut(keys, width), DIM)]


def _head(state: TopState, now_s: float) -> Iterator[Line]:
    if state.trouble:
        yield f"no answer: {clean(state.trouble)}", TROUBLE
    status = state.status
    if status is None:
        yield "asking the agent", DIM
        return
    host, cluster, drift = status["host"], status["cluster"], status["drift"]
    where = f"in {cluster['name']}" if cluster else "in no cluster"
    yield clean(f"{host['name']} {host['address']} {where}, up {span(host['uptime_s'])}"), BOLD
    per_s = "" if state.queries_per_s is None else f", {state.queries_per_s:.1f} queries/s"
    running = "resolver runs" if status["dns"]["running"] else "no resolver"
    endpoints = status["endpoints"]
    here = f"{counted(endpoints['local'], 'endpoint')} here, {endpoints['total']:,} in its networks"
    hidden = f", {endpoints['hidden']:,} hidden" if endpoints["hidden"] else ""
    yield f"{_tally(status['members'])} · {here}{hidden} · {running}{per_s}", PLAIN
    churn = f"{counted(state.churn(now_s), 'change')} of services in a minute"
    repaired = f"drift {drift['differences']}, repaired {drift['repaired']:,}"
    paths = f"paths: {_tally(status['paths']) or 'none'}"
    yield f"{churn} · {repaired} · {paths}", WARNING if drift["differences"] else PLAIN
    for warning in status["warnings"][:3]:
        yield f"! {clean(warning['message'])}", WARNING
    if (more := len(status["warnings"]) - 3) > 0:
        yield f"! {counted(more, 'further warning')}: see `netagent status`", WARNING


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _part(
    title: str,
    total: int,
    items: Sequence[Item],
    columns: Sequence[Column],
    *,
    width: int,
    style: Callable[[Item], str],
    first: int = 0,
) -> Iterator[Line]:
    """Yield the lines of one table: an empty one, its title with how many rows are not shown, and the rows."""
    yield "", PLAIN
    extent = f" {first + 1}-{first + len(items)} of {total:,}" if 0 < len(items) < total else f" {total:,}"
    yield cut(f"{title}{extent}", width), BOLD
    if not items:
        return
    shown = [column for column in columns if not column.wide][:_CALM]
    grid = [[clean(column.cell(item)) for column in shown] for item in items]
    titles = [column.title for column in shown]
    used = [i for i in range(len(shown)) if i == 0 or any(row[i] for row in grid)]
    widths = fitted([max(len(titles[i]), *(len(row[i]) for row in grid)) for i in used], width)
    for row, its in ((titles, DIM), *zip(grid, map(style, items), strict=True)):
        cells = [cut(row[i], size).ljust(size) for i, size in zip(used, widths, strict=True)]
        yield cut(GAP.join(cells).rstrip(), width), its


def _is_well(member: Item) -> bool:
    return member["agent"] == "alive" and member["path"] in ("ok", "local", "unknown")


def _style_of_member(member: Item) -> str:
    if member["agent"] in ("dead", "left"):
        return TROUBLE
    return PLAIN if _is_well(member) else WARNING


def _style_of_service(service: Item) -> str:
    if service["endpoint_count"] and not service["answering"]:
        return TROUBLE
    return WARNING if service["not_up"] else PLAIN


def _event(event: Item) -> str:
    at = str(event["happened_at"])[11:19]
    author: Any = event.get("author") or {}
    by = f" (by {author['name']})" if author.get("name") else ""
    return clean(f"{at} {event['kind']}: {event['text']}{by}")


def _style_of_event(event: Item) -> str:
    return {"error": TROUBLE, "warning": WARNING}.get(str(event["level"]), PLAIN)
