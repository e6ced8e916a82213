"""What happened between two views, for people: hosts, networks, services of other hosts, conflicts. Pure.

Levels, not messages, are compared: what was lost, doubled or reordered on the way makes no difference, and what came
and went between two looks is not told. What this host did itself is told where that is done, with its author; so its
own records are left out here. The endpoints of other hosts are, too: they are those hosts' events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from immutables import Map

from netagent.events.kinds import EventKind, EventLevel
from netagent.model.author import AGENT, Author, AuthorKind
from netagent.model.egress import text_of
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import ExternalServiceRecord, HostRecord, NetworkRecord, OwnNameRecord
from netagent.registry.store import Store
from netagent.registry.view import AgentState, Conflict, HostView, RegistryView
from netagent.registry.views import short_id
from netgossip.slices import Slices

T = TypeVar("T", bound=str)
R = TypeVar("R", ExternalServiceRecord, OwnNameRecord)

Conflicts: TypeAlias = dict[tuple[str, str, str], Conflict]
"""By kind, loser and holder."""


@dataclass(frozen=True, slots=True)
class News:
    """One event to be."""

    kind: EventKind
    subject: str
    text: str
    author: Author
    level: EventLevel = EventLevel.INFO


def news_between(earlier: RegistryView, later: RegistryView) -> Slices[list[News]]:
    """Return what happened from the earlier view to the later one."""
    found: list[News] = []
    touched = later.touched_since(earlier)
    hosts = touched.hosts if touched is not None else {*earlier.hosts, *later.hosts}
    for host_id in sorted(hosts):
        if host_id != later.local:
            found += _of_host(earlier.hosts.get(host_id), later.hosts.get(host_id))
        yield
    found += _evictions(earlier, later)
    if later.encryption_records is not earlier.encryption_records:
        found += _encryption(earlier, later)
    if later.networks is not earlier.networks:
        found += _networks(earlier, later)
    yield
    services = None if touched is None else {service_id for _, service_id in touched.services}
    found += yield from _additions(
        earlier.store.external_services, later.store.external_services, services, later
    )
    names = None if touched is None else {name_id for _, name_id in touched.own_names}
    found += yield from _additions(earlier.store.own_names, later.store.own_names, names, later)
    return found


# -- hosts -----------------------------------------------------------------------------------------------------------


def _of_host(was: HostView | None, now: HostView | None) -> Iterator[News]:
    """Return what happened to one other host. One that is not known whole yet has nothing told of it."""
    if now is None or now.record is None or now.member is None:
        return
    if was is None or was.record is None or was.member is None:
        if now.is_live:
            yield _member(now, f"{now.unique_name} ({now.address}) is a member of the cluster")
    elif now.agent is AgentState.LEFT:
        if was.agent is not AgentState.LEFT:
            yield _member(now, f"{now.unique_name} left the cluster")
    else:
        yield from _of_agent(was, now)
        yield from _of_reach(was, now)
        yield from _of_records(was.record, now.record, now.unique_name)


def _member(host: HostView, text: str, level: EventLevel = EventLevel.INFO) -> News:
    author = Author(AuthorKind.GOSSIP, host.unique_name)
    return News(EventKind.MEMBER, host.unique_name, text, author, level)


def _of_agent(was: HostView, now: HostView) -> Iterator[News]:
    """Return what the membership says otherwise. A suspicion is over in seconds, and no news."""
    name = now.unique_name
    if was.agent is AgentState.LEFT and now.is_live:
        yield _member(now, f"{name} ({now.address}) is a member of the cluster again")
    elif was.is_live and now.agent is AgentState.DEAD:
        kernel = {True: "; its kernel does", False: ", nor does its kernel", None: ""}[now.answers]
        text = f"the agent of {name} ({now.address}) does not answer{kernel}"
        yield _member(now, text, EventLevel.WARNING)
    elif was.agent is AgentState.DEAD and now.is_live:
        yield _member(now, f"the agent of {name} answers again")


def _of_reach(was: HostView, now: HostView) -> Iterator[News]:
    """Return whether names lead to the host otherwise, because of what it answers."""
    name = now.unique_name
    if was.is_gone is not now.is_gone:
        if now.is_gone:
            text = f"agent and kernel of {name} are silent: names lead to none of its containers"
            yield _member(now, text, EventLevel.WARNING)
        else:
            yield _member(now, f"{name} is back: names lead to its containers again")
    if was.is_unreached is not now.is_unreached:
        if now.is_unreached:
            text = f"this host does not reach {name} over the overlay: names lead there only where nothing else is"
            yield _member(now, text, EventLevel.WARNING)
        else:
            yield _member(now, f"this host reaches {name} over the overlay again")


def _of_records(before: HostRecord, record: HostRecord, name: str) -> Iterator[News]:
    """Return what the host itself says otherwise."""
    author = Author(AuthorKind.GOSSIP, name)
    if before.underlay != record.underlay:
        yield News(EventKind.MEMBER, name, f"{name} is at {record.underlay}, was {before.underlay}", author)
    if before.agent_version != record.agent_version:
        text = f"{name} runs netagent {record.agent_version}, was {before.agent_version}"
        yield News(EventKind.MEMBER, name, text, author)
    if before.name != record.name:
        yield News(EventKind.MEMBER, name, f"{name} was called {before.name}", author)
    if record.going_down and not before.going_down:
        text = f"names lead to no container of {name}: it {record.away_text}"
        yield News(EventKind.DRAIN, name, text, author)
    elif before.going_down and not record.going_down:
        yield News(EventKind.DRAIN, name, f"names lead to the containers of {name} again", author)
    if record.drain is not None and before.drain is None:
        text = f"{name} is drained by {record.drain.by}: names lead to none of its containers"
        yield News(EventKind.DRAIN, name, text, author)
    elif before.drain is not None and record.drain is None:
        yield News(EventKind.DRAIN, name, f"{name} is drained no more", author)


def _evictions(earlier: RegistryView, later: RegistryView) -> Iterator[News]:
    if later.evicted is earlier.evicted:
        return
    for host_id in sorted(set(later.evicted) - set(earlier.evicted)):
        by = later.evicted[host_id]
        if later.local in by or host_id == later.local:
            continue  # told by the use-case, with the user who asked, or by the agent that begins anew
        name = _host_name(earlier, host_id)
        author = Author(AuthorKind.GOSSIP, _host_name(later, min(by)))
        did = "revoked" if host_id in later.revoked else "evicted"
        text = f"{name} ({short_id(host_id)}) was {did}"
        yield News(EventKind.EVICT, name, text, author, EventLevel.WARNING)


def _encryption(earlier: RegistryView, later: RegistryView) -> Iterator[News]:
    before, now = earlier.encryption, later.encryption
    was_on = before is not None and before.is_on
    if now is None or now.is_on == was_on or now.decided_on in {None, later.local}:
        return
    name = _host_name(later, now.decided_on)
    text = f"{now.changed_by or 'an operator'} on {name} turned encryption {'on' if now.is_on else 'off'}"
    level = EventLevel.INFO if now.is_on else EventLevel.WARNING
    yield News(EventKind.ENCRYPTION, "encryption", text, Author(AuthorKind.GOSSIP, name), level)


def _host_name(view: RegistryView, host_id: HostId) -> str:
    host = view.hosts.get(host_id)
    return short_id(host_id) if host is None else host.unique_name


# -- networks and what is added to them ----------------------------------------------------------------------------


def _networks(earlier: RegistryView, later: RegistryView) -> Iterator[News]:
    for network_id in sorted({*earlier.networks, *later.networks}):
        was, now = earlier.networks.get(network_id), later.networks.get(network_id)
        if now is not None and was is None and now.owner != later.local:
            author = Author(AuthorKind.GOSSIP, _host_name(later, now.owner))
            subnets = ", ".join(now.record.subnets)
            yield News(EventKind.NETWORK, now.unique_name, f"network {now.unique_name}: {subnets}", author)
        elif was is not None and now is None:
            yield from _network_gone(network_id, was.unique_name, later)
        elif was is not None and now is not None:
            changes = list(_changed_options(was.record, now.record))
            writers = _option_writers(earlier, later, network_id)
            if changes and later.local not in writers:
                writer = min(writers, default=now.owner)
                author = Author(AuthorKind.GOSSIP, _host_name(later, writer))
                text = f"network {now.unique_name}: {', '.join(changes)}"
                yield News(EventKind.NETWORK, now.unique_name, text, author)


def _network_gone(network_id: NetworkId, name: str, later: RegistryView) -> Iterator[News]:
    removers = later.store.removals.get(network_id, frozenset())
    if later.local in removers:
        return
    if removers:
        author = Author(AuthorKind.GOSSIP, _host_name(later, min(removers)))
        yield News(EventKind.NETWORK, name, f"removed network {name}", author)
    else:
        text = f"network {name} is no longer in force: it yielded to another one, or its host is gone"
        yield News(EventKind.NETWORK, name, text, AGENT, EventLevel.WARNING)


def _changed_options(was: NetworkRecord, now: NetworkRecord) -> Iterator[str]:
    for option in ("policy", "answer", "service_addresses", "refuses_shared_names", "internal", "multicast"):
        before, after = getattr(was, option), getattr(now, option)
        if before != after:
            yield f"{option.replace('_', ' ')} {_word(after)}, was {_word(before)}"
    if was.egress != now.egress:
        yield f"egress {text_of(now.egress)}, was {text_of(was.egress)}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(getattr(value, "value", value))


def _option_writers(earlier: RegistryView, later: RegistryView, network_id: NetworkId) -> set[HostId]:
    was, now = earlier.store.option_records.get(network_id), later.store.option_records.get(network_id)
    if now is None:
        return set()
    return {host for host, record in now.items() if was is None or was.get(host) != record}


def _additions(
    before: Map[T, Map[HostId, R]],
    after: Map[T, Map[HostId, R]],
    touched: set[T] | None,
    later: RegistryView,
) -> Slices[list[News]]:
    """Return what other hosts added or removed, of services or of names."""
    found: list[News] = []
    if before is after:
        return found
    nothing: Map[HostId, R] = Map()
    for one in sorted({*before, *after} if touched is None else touched):
        found += _addition(before.get(one, nothing), after.get(one, nothing), later)
        yield
    return found


def _addition(before: Mapping[HostId, R], after: Mapping[HostId, R], later: RegistryView) -> Iterator[News]:
    if bool(before) is bool(after):
        return  # a host succeeds another one
    owner = min(after or before)
    record = (after or before)[owner]
    if owner == later.local or record.network_id not in later.networks:
        return  # or it went with its network
    what = "service" if isinstance(record, ExternalServiceRecord) else "name"
    network = later.networks[record.network_id].unique_name
    done = f"added by {record.added_by}" if after else "removed"
    author = Author(AuthorKind.GOSSIP, _host_name(later, owner))
    yield News(EventKind.SERVICE, record.name, f"{what} {record.name} of network {network}: {done}", author)


# -- conflicts -------------------------------------------------------------------------------------------------------


def may_conflict_otherwise(earlier: Store, later: Store) -> bool:
    """True if records on which conflicts depend differ: only then it is worth finding them, which costs more."""
    return any(
        getattr(earlier, index) is not getattr(later, index)
        for index in (
            "refused",
            "host_names",
            "networks",
            "fenced",
            "range_records",
            "address_records",
            "address_holders",
        )
    )


def conflicts_of(view: RegistryView) -> Slices[Conflicts]:
    """Return the conflicts of a view, by what they are about."""
    found = yield from view.search_conflicts()
    return {(one.kind, one.loser, one.holder): one for one in found}


def conflict_news(was: Conflicts, now: Conflicts, view: RegistryView) -> Iterator[News]:
    """Return which conflicts began and which are over."""
    own = {one.endpoint_id for one in view.fenced.values() if one.owner == view.local}
    for key in sorted(now.keys() - was.keys()):
        kind = EventKind.FENCE if now[key].loser in own else EventKind.CONFLICT
        yield News(kind, short_id(now[key].loser), now[key].text, AGENT, EventLevel.WARNING)
    for key in sorted(was.keys() - now.keys()):
        yield News(EventKind.CONFLICT, short_id(was[key].loser), f"over: {was[key].text}", AGENT)
