"""What each part of the page shows: read from the handlers that answer the same commands, or from the tables.

`Content.read` returns all of it as of now; the stream (netagent.page.live_stream) sends what differs from before.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, cast

import trio

from netagent.control.api import Handlers
from netagent.control.present import Presenter
from netagent.errors import NotFoundError
from netagent.events.kinds import EventKind
from netagent.interface.cluster import MembersCommand
from netagent.interface.command import Command
from netagent.interface.containers import NetworkListCommand
from netagent.interface.questions import (
    DoctorCommand,
    EventsCommand,
    FlowsCommand,
    InspectCommand,
    LookupCommand,
    StatusCommand,
)
from netagent.model.ids import HostId
from netagent.page.address_table import address_rows
from netagent.page.cluster_tables import ClusterTables, RowId, ServiceRow
from netagent.page.examination import Examination, Examined
from netagent.page.flow_table import is_flow_wanted
from netagent.page.leads import leads_of
from netagent.page.map import draw, flows_between
from netagent.page.path_matrix import matrix, rows_of_matrix
from netagent.page.table_query import TableQuery
from netagent.page.window import (
    ENDPOINT_ORDERS,
    SERVICE_ORDERS,
    Window,
    is_endpoint_wanted,
    is_service_wanted,
)
from netagent.registry.view import RegistryView
from netagent.rpc.paths import KnownPath
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

MAX_REPLICAS: Final = 200
"""Bound of endpoints in the page of one service, host or network; beyond it: their number is said, and the table of
endpoints has them all."""
MAX_NAMED: Final = 4
"""Bound of hosts, ports or addresses that a row names; beyond it: their number is said."""
MAX_EVENTS: Final = 300
"""Bound of events that the time line shows; beyond it: their number is said, and `netagent events` has them all."""
MAX_FINDINGS: Final = 100
"""Bound of findings of the doctor that the page shows; beyond it: their number is said."""
MAX_FLOWS: Final = 300
"""Bound of flows that the page shows; beyond it: their number is said, and `netagent flows` has them all."""
FLOWS_S: Final = 5.0
"""Flows are counted in the kernels of all hosts, which are asked so often while a page shows them."""
PATHS_S: Final = 5.0
"""All hosts in the matrix are asked so often while a page shows it; they probe calm paths as often."""
ADDRESSES_S: Final = 2.0
"""Addresses in use are counted network by network, at most so often for each reader."""
EVENTS_S: Final = 2.0
"""Events follow at the latest so long after they happened."""
ALL_EVENTS_S: Final = 10.0
"""The same for events of all hosts, each of which is asked for its own."""
EVENT_SPANS: Final[Mapping[str, float]] = {"1h": 3600.0, "24h": 86_400.0, "7d": 604_800.0}
LINGER_S: Final = 30.0
"""From the last reader until the tables are dropped: readers go from one part to the next."""

WARNED: Final[Mapping[str, Sequence[str]]] = {
    "hosts": (
        "agent-dead", "agent-port", "agent-udp", "identity", "said-gone", "forgotten", "drained", "host-name",
        "said-compromised", "revoked-each-other", "keys-held-up", "refused-record",
    ),
    "services": (
        "all-failing", "no-backend", "not-translated", "service-address", "service-address-twice", "external-down",
        "external-expired", "external-unchecked", "name-shadowed", "split-project", "label-left-out",
    ),
    "endpoints": ("address", "mac", "address-outside-network", "endpoint-id", "interface"),
    "networks": ("network-full", "overlap", "network-name", "vni", "subnet", "service-range"),
    "paths": (
        "path-down", "path-one-way", "path-degraded", "path-lossy", "checksum-offload", "underlay-family", "tunnel",
    ),
    "dns": ("upstream-dead", "upstream-slow", "resolver", "resolver-slow", "resolver-rights", "shared-name"),
    "kernel": ("datapath", "firewall", "bridge-netfilter", "foreign-firewall", "routing", "resets"),
}  # fmt: skip
"""What warnings of `status` are about, by their codes: beside these counts the overview must not say that all is
well. Other codes are about the agent."""

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a part of the page shows now."""

    head: dict[str, Any]
    rows: dict[RowId, Row] = field(default_factory=dict)
    """In order."""


@dataclass(frozen=True, slots=True)
class Content:
    """A part of the page, for one reader."""

    read: Callable[[], Awaitable[Shown]]
    pause_s: float
    """Shortest time between two readings."""
    refresh_s: float = 30.0
    """Longest time between two readings, for what changes without a change of the registry."""
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class PageSource:
    """What the page is made from."""

    handlers: Handlers
    presenter: Callable[[], Awaitable[Presenter]]
    """Of the whole cluster as far as it is known here. Raises RefusedError while this host is in no cluster."""
    cluster: Callable[[], str]
    """The cluster's name; the same."""
    paths: Callable[[Sequence[HostId]], Awaitable[Mapping[HostId, Mapping[HostId, KnownPath]]]]
    """From each of some hosts to all of them, as each knows its own; the same."""


class PageContents:
    """All parts. The tables behind them exist while there is a reader."""

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self._tables = ClusterTables()
        self._bringing_up = trio.Lock()
        self._examination = Examination(lambda: self._ask(DoctorCommand()))
        self._readers = 0
        self._idle_since = -LINGER_S

    def open(self, part: str, query: TableQuery, asked: Mapping[str, str]) -> Content:
        """Return a part of the page; it must be closed. Raises InputError, NotFoundError."""
        match part:
            case "services":
                return self._table_of_services(query)
            case "endpoints":
                return self._table_of_endpoints(query)
            case "overview":
                return self._counted(self._overview, pause_s=1.0, refresh_s=5.0)
            case "map":
                return self._map_of(query)
            case "hosts":
                return self._counted(self._hosts, pause_s=1.0, refresh_s=5.0)
        thing = asked.get("thing", "")
        others = {
            "about": Content(self._about, pause_s=1.0),
            "networks": Content(self._networks, pause_s=1.0),
            "addresses": Content(
                lambda: self._addresses(query), pause_s=ADDRESSES_S, refresh_s=3 * ADDRESSES_S
            ),
            "thing": Content(lambda: self._thing(thing), pause_s=1.0, refresh_s=10.0),
            "why": Content(lambda: self._why(thing), pause_s=3.0),
            "lookup": Content(lambda: self._lookup(asked), pause_s=3.0),
            "doctor": Content(lambda: self.examine(anew=False), pause_s=60.0, refresh_s=60.0),
            "events": Content(
                lambda: self._events(query, asked),
                pause_s=ALL_EVENTS_S if asked.get("hosts") == "all" else 0.5,
                refresh_s=ALL_EVENTS_S if asked.get("hosts") == "all" else EVENTS_S,
            ),
            "paths": Content(lambda: self._paths(query), pause_s=PATHS_S, refresh_s=PATHS_S),
            "flows": Content(lambda: self._flows(query, asked), pause_s=FLOWS_S, refresh_s=FLOWS_S),
        }
        if part not in others:
            raise NotFoundError(f"the page has no part {part[:40]!r}", thing=part[:40])
        return others[part]

    async def examine(self, *, anew: bool) -> Shown:
        """Return what the doctor found; with `anew` it looks now, unless it did so a moment ago."""
        examined = await self._examination.read(anew=anew)
        return _examined_shown((await self._source.presenter()).view, examined)

    async def run(self) -> None:
        """Drop the tables that no page reads; until cancelled."""
        while True:
            await trio.sleep(LINGER_S / 3)
            is_idle = not self._readers and trio.current_time() - self._idle_since > LINGER_S
            if is_idle and self._tables.present is not None:
                self._tables = ClusterTables()

    # -- the tables --------------------------------------------------------------------------------------------

    def _counted(
        self,
        read: Callable[[], Awaitable[Shown]],
        *,
        pause_s: float,
        refresh_s: float = 30.0,
        close: Callable[[], None] = lambda: None,
    ) -> Content:
        """Return a content that needs the tables until it is closed."""
        self._readers += 1

        def end() -> None:
            close()
            self._readers -= 1
            self._idle_since = trio.current_time()

        return Content(read, pause_s, refresh_s, end)

    async def _follow(self) -> ClusterTables:
        """Bring the tables up to date. The caller holds the lock: they must not change while it reads them."""
        tables, present = self._tables, await self._source.presenter()
        await in_slices(tables.follow(present))
        return tables

    def _table_of_services(self, query: TableQuery) -> Content:
        window = Window(self._tables.services, query, SERVICE_ORDERS, is_service_wanted)
        sets = self._tables.listen()
        shown: dict[RowId, tuple[int, Row]] = {}
        is_filled = False

        async def read() -> Shown:
            nonlocal is_filled, shown
            async with self._bringing_up:
                tables = await self._follow()
                if not is_filled:
                    sets[1].clear()
                    await in_slices(window.fill())
                    is_filled = True
                while sets[1]:
                    window.look_again(sets[1].pop())
                fresh = {}
                for row_id in window.in_sight():
                    row = tables.services[row_id]
                    known = shown.get(row_id)
                    is_same = known is not None and known[0] == row.version
                    fresh[row_id] = (
                        known if known is not None and is_same else (row.version, _service_shown(tables, row))
                    )
                shown = fresh
                head = self._head(window.matching, len(tables.services), query)
            return Shown(head, {row_id: one for row_id, (_, one) in shown.items()})

        return self._counted(read, pause_s=0.3, close=lambda: self._tables.stop(sets))

    def _table_of_endpoints(self, query: TableQuery) -> Content:
        window = Window(self._tables.endpoints, query, ENDPOINT_ORDERS, is_endpoint_wanted)
        sets = self._tables.listen()
        is_filled = False

        async def read() -> Shown:
            nonlocal is_filled
            async with self._bringing_up:
                tables = await self._follow()
                if not is_filled:
                    sets[0].clear()
                    await in_slices(window.fill())
                    is_filled = True
                while sets[0]:
                    window.look_again(sets[0].pop())
                rows = {row_id: _endpoint_shown(tables, row_id) for row_id in window.in_sight()}
                head = self._head(window.matching, len(tables.endpoints), query)
            return Shown(head, rows)

        return self._counted(read, pause_s=0.3, close=lambda: self._tables.stop(sets))

    def _head(self, matching: int, total: int, query: TableQuery) -> dict[str, Any]:
        assert self._tables.present is not None
        view = self._tables.present.view
        return {
            "matching": matching,
            "total": total,
            "offset": query.offset,
            "networks": sorted(one.unique_name for one in view.networks.values()),
            "hosts": sorted(self._tables.present.host_name(one) for one in view.hosts),
        }

    def _map_of(self, query: TableQuery) -> Content:
        flows: list[dict[str, Any]] = []
        asked_at = -FLOWS_S

        async def read() -> Shown:
            nonlocal flows, asked_at
            if trio.current_time() - asked_at >= FLOWS_S:
                flows = (await self._ask(FlowsCommand(network=query.network)))["items"]
                asked_at = trio.current_time()
            return await self._map(query, flows)

        return self._counted(read, pause_s=1.0, refresh_s=FLOWS_S)

    async def _map(self, query: TableQuery, flows: Sequence[Mapping[str, Any]]) -> Shown:
        async with self._bringing_up:
            tables = await self._follow()
            drawn = await in_slices(draw(tables, query))
            networks = self._head(0, 0, query)["networks"]
        titles = {one["id"] for one in drawn["services"]}
        members = await self._ask(MembersCommand())
        hosts = [
            {key: one[key] for key in ("id", "name", "agent", "host", "path", "rtt_s", "zone", "local")}
            for one in sorted(members["items"], key=lambda one: one["name"])
        ]
        return Shown({**drawn, "hosts": hosts, "networks": networks, "flows": flows_between(flows, titles)})

    # -- from the handlers -------------------------------------------------------------------------------------

    async def _ask(self, request: Command[Any]) -> dict[str, Any]:
        return cast("dict[str, Any]", await self._source.handlers[type(request)](request))

    async def _overview(self) -> Shown:
        async with self._bringing_up:
            tables = await self._follow()
            services = await in_slices(_count_services(tables))
            words: Counter[str] = Counter()
            for host in tables.hosts.values():
                words.update(host.words)
        status = await self._ask(StatusCommand())
        # The uptime would make each reading differ.
        status["host"] = {key: one for key, one in status["host"].items() if key != "uptime_s"}
        view = (await self._source.presenter()).view
        leads = [leads_of(view, one["message"]) for one in status["warnings"]]
        head = {"status": status, "services": services, "endpoints": dict(words), "leads": leads}
        return Shown({**head, "warned": _warned(one["code"] for one in status["warnings"])})

    async def _about(self) -> Shown:
        view = (await self._source.presenter()).view
        here = view.hosts.get(view.local)
        return Shown({"cluster": self._source.cluster(), "host": "" if here is None else here.unique_name})

    async def _events(self, query: TableQuery, asked: Mapping[str, str]) -> Shown:
        since_s = EVENT_SPANS.get(asked.get("since", ""), EVENT_SPANS["24h"])
        listing = await self._ask(
            EventsCommand(since_s=since_s, kind=asked.get("kind", ""), all=asked.get("hosts") == "all")
        )
        wanted = []
        for one in reversed(listing["items"]):  # the latest first
            text = (
                f"{one['text']} {one['subject']} {one['kind']} {one['host']} {one['author']['name']}".lower()
            )
            if asked.get("level", "") in {"", one["level"]} and all(word in text for word in query.words):
                wanted.append(one)
        head = {
            "matching": len(wanted),
            "total": len(listing["items"]),
            "kinds": [kind.value for kind in EventKind],
            "warnings": listing.get("warnings", []),
        }
        return Shown(head, {one["id"]: one for one in wanted[:MAX_EVENTS]})

    async def _flows(self, query: TableQuery, asked: Mapping[str, str]) -> Shown:
        request = FlowsCommand(network=query.network, refused=asked.get("refused") == "yes")
        listing = await self._ask(request)
        wanted = [one for one in listing["items"] if is_flow_wanted(one, query.words)]
        wanted.sort(key=lambda one: (-one["refused"], -one["openings"], one["id"]))
        head = {"matching": len(wanted), "warnings": listing.get("warnings", [])}
        return Shown(head, {one["id"]: one for one in wanted[:MAX_FLOWS]})

    async def _paths(self, query: TableQuery) -> Shown:
        members = (await self._ask(MembersCommand()))["items"]
        chosen, left_out = rows_of_matrix(members, query.words)
        known = await self._source.paths([HostId(one["id"]) for one in chosen])
        return Shown({"hosts": chosen, "left_out": left_out}, matrix(chosen, known))

    async def _hosts(self) -> Shown:
        members = await self._ask(MembersCommand())
        async with self._bringing_up:
            counts = (await self._follow()).hosts
        rows = {}
        for one in sorted(members["items"], key=lambda one: one["name"]):
            count = counts.get(one["id"])
            rows[one["id"]] = {**one, "endpoints": dict(count.words) if count else {}}
        return Shown({"total": len(rows)}, rows)

    async def _networks(self) -> Shown:
        networks = await self._ask(NetworkListCommand())
        items = sorted(networks["items"], key=lambda one: one["name"])
        return Shown(
            {"total": len(items), "warnings": networks.get("warnings", [])}, {one["id"]: one for one in items}
        )

    async def _addresses(self, query: TableQuery) -> Shown:
        listing = await self._ask(NetworkListCommand())
        wanted, total = await in_slices(address_rows(listing["items"], query))
        present = await self._source.presenter()
        head = {
            "matching": len(wanted),
            "total": total,
            "offset": query.offset,
            "networks": sorted(one["name"] for one in listing["items"]),
            "hosts": sorted(present.host_name(one) for one in present.view.hosts),
            "warnings": listing.get("warnings", []),
        }
        seen = wanted[query.offset : query.offset + query.limit]
        return Shown(head, {one["id"]: one for one in seen})

    async def _thing(self, thing: str) -> Shown:
        found = dict(await self._ask(InspectCommand(thing=thing)))
        endpoints = found.get("endpoints", [])
        if len(endpoints) > MAX_REPLICAS:
            found["endpoints"] = sorted(endpoints, key=lambda one: (one["state"] == "up", one["name"]))[
                :MAX_REPLICAS
            ]
        found["endpoints_total"] = len(endpoints)  # of services `endpoint_count` may count addresses
        return Shown({"thing": found})

    async def _why(self, thing: str) -> Shown:
        found = await self._ask(InspectCommand(thing=thing, why=True))
        return Shown({"why": found.get("why")})

    async def _lookup(self, asked: Mapping[str, str]) -> Shown:
        request = LookupCommand(
            name=asked.get("name", ""),
            type=asked.get("type", "A").upper(),
            from_endpoint=asked.get("from", ""),
        )
        return Shown({"lookup": await self._ask(request)})


def _examined_shown(view: RegistryView, examined: Examined) -> Shown:
    """Show what is wrong. The warnings of `status` are among the doctor's checks, and on the overview already."""
    checks = [*examined.answer["host"], *examined.answer["intent"]]
    found = [
        {**one, "check": check["name"], "says": check["says"]}
        for check in checks
        for one in check["findings"]
    ]
    found.sort(key=lambda one: one["severity"] != "failed")
    shown = found[:MAX_FINDINGS]
    head = {
        "at": datetime.fromtimestamp(examined.at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "healthy": examined.answer["healthy"],
        "absent": examined.answer["absent"],
        "checks": len(checks) + len(examined.answer["cluster"]),
        "looked_at": examined.answer["looked_at"],
        "not_known": [
            {"says": one["says"], "note": one["note"]} for one in checks if one["verdict"] == "not known"
        ],
        "left_out": len(found) - len(shown) + sum(check["left_out"] for check in checks),
        "findings": [{**one, "leads": leads_of(view, one["thing"], one["message"])} for one in shown],
    }
    return Shown(head)


def _warned(codes: Iterable[str]) -> dict[str, int]:
    """Count warnings by what they are about."""
    count = Counter(codes)
    return {about: sum(count[code] for code in known) for about, known in WARNED.items()}


def _count_services(tables: ClusterTables) -> Slices[dict[str, int]]:
    words: Counter[str] = Counter()
    for row in list(tables.services.values()):
        words[row.word] += 1
        yield
    return dict(words)


def _service_shown(tables: ClusterTables, row: ServiceRow) -> Row:
    present = tables.present
    assert present is not None
    own = present.view.service_addresses(row.network_id).get(row.key, ())
    addresses = [address for one in own for address in one.record.addresses]
    if row.external is not None:
        addresses = row.external["addresses"]
    return {
        "id": row.title,
        "name": row.name,
        "network": row.network,
        "state": row.word,
        "answering": row.answering,
        "total": row.total,
        "words": dict(row.words),
        "hosts": list(itertools.islice(sorted(row.hosts), MAX_NAMED)),
        "host_count": len(row.hosts),
        "ports": sorted(row.ports)[:MAX_NAMED],
        "addresses": addresses[:MAX_NAMED],
        "address_count": len(addresses),
        "kind": "external" if row.external is not None else "containers",
        "reason": _why_not_up(row),
    }


def _why_not_up(row: ServiceRow) -> str:
    """Return why a service leads nowhere, or not to all it should; "" where its replicas' states say it."""
    if row.external is None:
        return "" if row.total else "connections to its address are refused"
    parts = row.external["external"]
    reasons = [f"container {one['shadowed_by']} has the name" for one in parts if one["shadowed_by"]]
    reasons += [one["reason"] for one in parts]
    reasons += [address["reason"] for one in parts for address in one["addresses"]]
    return next(filter(None, reasons), "")


def _endpoint_shown(tables: ClusterTables, row_id: RowId) -> Row:
    present, row = tables.present, tables.endpoints[row_id]
    assert present is not None
    word, reason = present.state(row.endpoint)
    record = row.endpoint.record
    return {
        "id": record.endpoint_id,
        "name": row.name,
        "service": row.service,
        "network": row.network,
        "host": row.host,
        "addresses": list(record.addresses),
        "state": word,
        "reason": reason,
        "health": record.health.value,
    }
