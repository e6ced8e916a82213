"""All that an agent makes of its view, without a kernel, a socket or a clock: devices, rules, tables and names,
feeds, and whatever commands, page, events and metrics show."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from fakes.doctor_world import CLUSTER, SITUATION, World
from fakes.poison import K1, K2
from fakes.registry import H1, N1, N2, grants_of
from netagent.balancing.tables import ServiceTableBuilder
from netagent.checks.all_failing import failing_services
from netagent.commands.apply.export import exported
from netagent.commands.feed import feed_table
from netagent.commands.inspect import inspect_thing
from netagent.commands.lists import _addressed, _external_services, _keys, _services, _shared
from netagent.commands.networks import space_use
from netagent.commands.notices.conflict_notices import conflict_notices
from netagent.commands.notices.name_notices import failing_notices, name_notices, project_notices
from netagent.commands.notices.service_notices import service_notices, translation_notices
from netagent.commands.reasons import why
from netagent.commands.status import count_hidden
from netagent.control.present import Presenter, ProbeView
from netagent.control.present_additions import addition_notices, own_name_part, services_of
from netagent.control.present_services import NOTHING_SEEN
from netagent.daemon.encryption import peers_of
from netagent.datapath.reconcile.plan import plan
from netagent.datapath.state import KernelState
from netagent.doctor import explain
from netagent.errors import InputError, NotFoundError
from netagent.events.sources.view_changes import conflict_news, conflicts_of, news_between
from netagent.eviction.succession import amended_evictions, eviction_records
from netagent.external.view import external_services, own_names
from netagent.external.watch import ServiceWatch
from netagent.feeds.catalogue import FEEDS
from netagent.feeds.encoding import encoded
from netagent.firewall import text
from netagent.firewall.ruleset import ruleset_of
from netagent.interface.questions import ServicesCommand
from netagent.ipam.space import inherit, space_of
from netagent.journal.rows import LocalEndpointRow
from netagent.keys.picture import is_wanted, others, picture_of, sealed_records
from netagent.keys.stages import KeySteps, RingKey, decide, next_number, pending, without_records
from netagent.metrics.cluster_families import member_families, network_families, path_families
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.records import Record
from netagent.model.ring_key import HeldKey
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.model.subnet import offset_count
from netagent.page.address_table import address_rows
from netagent.page.cluster_tables import ClusterTables
from netagent.page.leads import leads_of
from netagent.page.map import draw
from netagent.page.table_query import TableQuery
from netagent.projection.datapath_input import path_targets, probe_targets
from netagent.projection.desired_state import DesiredStateBuilder
from netagent.projection.firewall_input import firewall_input
from netagent.projection.published_services import published_ports, service_forwards
from netagent.projection.service_ranges import ranges_here
from netagent.registry.encryption import own_salt
from netagent.registry.shared_names import shared_names, split_projects
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView, compromised_keys
from netagent.resolver.explain_name import explain as explain_name
from netagent.resolver.feed_source import FeedSource
from netagent.resolver.name_table import Key, Row
from netagent.resolver.zone import ZoneBuilder
from netagent.resolver.zone_source import ZoneSource
from netgossip.slices import at_once

DOMAIN: Final = "mesh.internal"
OWN: Final = LocalEndpointRow(
    endpoint_id=EndpointId("e" * 32),
    network_id=N1,
    name="own",
    service="own",
    offset=9,
    addresses=("10.1.0.9", "fd00:1::9"),
    mac="02:a1:00:00:00:09",
)
"""This host's own endpoint."""
OWN_RING: Final = (RingKey(K1, 2, 0.0), RingKey(K2, 1, 0.0))
BOX: Final = Sandbox(sandbox_id=SandboxId("c"), networks=(N1, N2), links=())
NOW_S: Final = 1_770_000_000


@dataclass(frozen=True)
class Made:
    """What was made."""

    kernel: KernelState
    names: Mapping[Key, Row]
    feeds: Mapping[str, str]
    shown: str
    """As JSON."""
    rules: str


def everything(view: RegistryView, before: RegistryView, asked: Iterable[str] = ()) -> Made:
    """Make all of it. `before`: the view that events are told since. `asked`: names and addresses that users ask
    about."""
    kernel, rules = _datapath(view)
    names = at_once(ZoneBuilder(DOMAIN).build(view, {BOX.sandbox_id: BOX})).table
    shown = [
        *_lists(view),
        *_page(view),
        *_notices(view),
        *_news(before, view),
        *_reasons(view),
        *_space(view),
    ]
    for thing in dict.fromkeys(asked):
        shown += _answers(view, thing)
    shown.append(exported(view, []))
    for families in (
        member_families(view),
        path_families(view, lambda _host: None, lambda _host: None),
        network_families(
            view, 0, lambda _network: 0, lambda network: offset_count(view.networks[network].record.subnets)
        ),
    ):
        shown.append([str(family) for family in families])
    _duties(view)
    return Made(kernel, names, _feeds(view, names), json.dumps(shown, default=str), rules)


def _datapath(view: RegistryView) -> tuple[KernelState, str]:
    known = StateStore(view, {OWN.endpoint_id: OWN}).now
    made = at_once(DesiredStateBuilder(CLUSTER, vxlan_port=4799).make(known, SITUATION.underlay))
    at_once(plan(KernelState(), made.state))
    published = published_ports(view, {OWN.endpoint_id: OWN})
    service_forwards(published, set(), {OWN.endpoint_id})
    ranges_here(view)
    limits = dict.fromkeys(view.hosts, 1300)
    rules = text.render(ruleset_of(firewall_input(view, [OWN], vxlan_port=4799, limits=limits)))
    networks = {one: network for one, network in view.networks.items() if view.local in view.attachments(one)}
    at_once(ServiceTableBuilder(H1, lambda _address: ()).build(view, networks, NOW_S))
    path_targets(view)
    probe_targets(view)
    return made.state, str(rules)


def _feeds(view: RegistryView, names: Mapping[Key, Row]) -> dict[str, str]:
    """As the host gives them, and as a container reads them."""
    source = ZoneSource()
    feeds = FeedSource(source)
    source.apply(names.items())
    feeds.apply(names.items())
    feeds.commit()
    networks = [view.networks[one] for one in sorted(view.networks)]
    table = at_once(feed_table(Presenter(view, DOMAIN), networks))
    found = {}
    for name, make in FEEDS.items():
        body = at_once(make(table))
        found[name] = "".join(at_once(encoded(body.value)))
        json.loads(found[name])
    return found


def _present(view: RegistryView) -> Presenter:
    return Presenter(view, DOMAIN, {OWN.endpoint_id: OWN})


def _lists(view: RegistryView) -> list[Any]:
    present, request = _present(view), ServicesCommand()
    keys = at_once(_keys(view, request))
    keys += at_once(_addressed(view, request, frozenset(keys)))
    return [
        [present.endpoint(one) for one in (*view.endpoints.values(), *view.fenced.values())],
        at_once(_services(present, view, keys, NOTHING_SEEN)),
        at_once(_external_services(present, view, request, NOTHING_SEEN)),
        name_notices(at_once(_shared(view, keys))),
        [present.network(one) for one in view.networks.values()],
        [present.member(one, ProbeView()) for one in view.hosts.values()],
        [services_of(present, one) for one in view.networks],
        [own_name_part(present, one) for network_id in view.networks for one in own_names(view, network_id)],
    ]


def _page(view: RegistryView) -> list[Any]:
    tables, query = ClusterTables(), TableQuery()
    at_once(tables.follow(_present(view)))
    networks = [
        {
            **_present(view).network(one),
            "use": at_once(space_use(_present(view), one, _space_of(view, one.network_id), is_known=True)),
        }
        for one in view.networks.values()
    ]
    return [
        at_once(draw(tables, query)),
        at_once(address_rows(networks, query)),
        [str(row) for row in tables.services.values()],
    ]


def _notices(view: RegistryView) -> list[Any]:
    present = _present(view)
    failing = at_once(failing_services(view))
    found = [
        *conflict_notices(present, view.conflicts),
        *name_notices(at_once(shared_names(view))),
        *project_notices(at_once(split_projects(view))),
        *failing_notices(present, failing),
        *at_once(service_notices(present, failing)),
        *translation_notices(present, "x", "y"),
        *at_once(addition_notices(present, NOW_S)),
    ]
    return [found, at_once(count_hidden(view)), leads_of(view, *(one["message"] for one in found))]


def _news(before: RegistryView, view: RegistryView) -> list[Any]:
    told = at_once(news_between(before, view)) + at_once(news_between(view, before))
    was, now = at_once(conflicts_of(before)), at_once(conflicts_of(view))
    return [[str(one) for one in (*told, *conflict_news(was, now, view), *conflict_news(now, was, before))]]


def _reasons(view: RegistryView) -> list[Any]:
    present = _present(view)
    world = World(view, {}, {OWN.endpoint_id: OWN})
    evidence = world.evidence()
    reports = []
    for endpoint in (*view.endpoints.values(), *view.fenced.values()):
        reports.append(
            explain.WhyReport(
                origins=(explain.origin_of_endpoint(endpoint),),
                lines=tuple(
                    explain.endpoint_lines(
                        evidence, endpoint, None, tuple(present.endpoint(endpoint)["names"]), None
                    )
                ),
            )
        )
        explain.extract_of_endpoints(view, [endpoint])
    reports += [
        explain.WhyReport(
            origins=(explain.origin_of_network(evidence, network),),
            lines=tuple(explain.network_lines(evidence, network)),
        )
        for network in view.networks.values()
    ]
    reports += [
        explain.WhyReport(
            origins=(explain.origin_of_host(evidence, host),) if host.record is not None else (),
            lines=tuple(explain.host_lines(evidence, host)),
        )
        for host in view.hosts.values()
    ]
    return [why(present, one) for one in reports]


def _space_of(view: RegistryView, network_id: NetworkId) -> Any:
    network = view.networks[network_id]
    return space_of(network.creator, offset_count(network.record.subnets), grants_of(view, network_id))


def _space(view: RegistryView) -> list[Any]:
    found = []
    for network_id in view.networks:
        space = _space_of(view, network_id)
        space.check_invariants()
        gone = [host for host in view.hosts if host != view.local]
        found.append(
            [space.usable_counts(), [str(one) for one in inherit(network_id, space, view.local, gone)]]
        )
    return found


def _answers(view: RegistryView, thing: str) -> list[Any]:
    """What `inspect` and `lookup` say."""
    found: list[Any] = []
    for local in (thing, f"{thing}.app"):
        with contextlib.suppress(NotFoundError, InputError):
            found.append(at_once(inspect_thing(_present(view), local, lambda _host: ProbeView())))
        for rtype in ("A", "SRV", "TXT"):
            answer = at_once(
                explain_name(
                    view,
                    {BOX.sandbox_id: BOX},
                    domain=DOMAIN,
                    name=local,
                    rtype=rtype,
                    beyond=[N1, N2],
                    now_s=NOW_S,
                )
            )
            found.append(str(answer))
    return found


def _duties(view: RegistryView) -> None:
    """What this host does by itself: it asks for external services, succeeds a host that is gone, changes its ring
    keys, and has the others as peers in the tunnel."""
    for network_id in view.networks:
        for service in external_services(view, network_id):
            ServiceWatch(service, 0.0, NOW_S).follow(service, 1.0, NOW_S)
    amended_evictions(view, ())
    for gone in view.hosts:
        if gone != view.local:
            eviction_records(view, [gone])
    ring_steps(view)
    own_salt(view)
    for version in (4, 6):
        peers_of(view, version)


def ring_steps(view: RegistryView) -> KeySteps:
    """What this host does about its ring keys; others give it all keys that they say they give."""
    offered = {
        HeldKey(one.key_id, one.number)
        for host in others(view, ())
        for one in sealed_records(view, host.host_id)
        if any(sealed.to == view.local for sealed in one.sealed)
    }
    picture = picture_of(
        view,
        OWN_RING,
        excluded=(),
        is_signer=lambda _host: True,
        compromised=compromised_keys(view),
        leaked=frozenset(one.key_id for one in OWN_RING),
        offered=offered,
        rotate_every_s=1.0,
        now_s=NOW_S,
    )
    next_number(picture)
    pending(picture)
    without_records(picture)
    for host in view.hosts:
        for one in sealed_records(view, host):
            is_wanted(view, one)
    return decide(picture)


def names_in(records: Iterable[Record]) -> list[str]:
    """The names and addresses that a user may ask about because of records."""
    found: list[str] = []
    for record in records:
        for what in ("name", "service", "addresses", "aliases", "underlay", "probe_address"):
            value = getattr(record, what, ())
            found += [value] if isinstance(value, str) else list(value)[:2]
    return [str(one) for one in found if one]


def calls_of(function: Callable[[], object]) -> int:
    """Count the calls of functions, built-in ones too, that a call makes: its work, whatever the machine does."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
