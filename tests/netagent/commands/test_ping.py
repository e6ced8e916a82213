"""Who is meant by the two ends of `ping`, and what the policy of a network says of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, host, network
from fakes.rows import NETNS, local_row
from fakes.service_addresses import service_address, service_range

from netagent.commands.ping import _aim_host, _aim_inside, _far, _host_of, _policy, _split
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.state import KernelState
from netagent.doctor.checks.expected_objects import Situation
from netagent.doctor.checks.object_checks import Evidence
from netagent.errors import FailedError, InputError, NotFoundError
from netagent.journal.rows import Bound, LocalEndpointRow
from netagent.model.ids import ClusterId
from netagent.model.records import Policy, ServicePort
from netagent.registry.cluster_overview import ClusterOverview, Gap, GapReason
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState

WEB, DB = endpoint(1, offset=2, name="web"), endpoint(2, offset=3, name="db", service="db")
ROW = local_row(WEB.endpoint_id, N1, stage=Bound(NETNS))


def known(policy: Policy = Policy.OPEN, linked: tuple[str, ...] = ()) -> RegistryView:
    view = RegistryView(H1)
    mine, theirs = Writer(H1), Writer(H2)
    for record in (host("h1"), network(policy=policy), network(N2, "other"), replace(WEB, links=linked)):
        view = view.with_entries(mine.put(record))
    for record in (host("h2", underlay="192.0.2.2"), DB):
        view = view.with_entries(theirs.put(record))
    return view


def evidence(view: RegistryView, row: LocalEndpointRow = ROW) -> Evidence:
    situation = Situation(
        cluster_id=ClusterId("c1" * 16),
        domain="mesh.internal",
        underlay=Underlay("192.0.2.1", "eth0", 1500),
        vxlan_port=4799,
    )
    empty = KernelState()
    return Evidence(
        view=view, rows={row.endpoint_id: row}, situation=situation, desired=empty, observed=empty
    )


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("db", ("db", None)),
        ("db.app:80", ("db.app", 80)),
        ("10.1.0.3", ("10.1.0.3", None)),
        ("10.1.0.3:80", ("10.1.0.3", 80)),
        ("fd00:1::3", ("fd00:1::3", None)),
        ("[fd00:1::3]", ("fd00:1::3", None)),
        ("[fd00:1::3]:65535", ("fd00:1::3", 65535)),
    ],
)
def test_an_end_is_a_name_or_an_address_with_or_without_a_port(
    text: str, end: tuple[str, int | None]
) -> None:
    assert _split(text) == end


@pytest.mark.parametrize(
    "text", ["db:", "db:0", "db:65536", "db:http", ":80", "[fd00::1", "[fd00::1]80", "db:²"]
)
def test_what_is_no_end_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        _split(text)


def test_the_replicas_are_meant_by_the_own_address_of_a_service() -> None:
    """That address would be answered by the container's own kernel, whatever is behind it."""
    view = known()
    other = Writer(H3)
    for record in (
        service_range(),
        service_address("db", 7, ports=(ServicePort(80, 8080),)),
        service_address("none", 8),
    ):
        view = view.with_entries(other.put(record))
    cluster: Any = SimpleNamespace(live=SimpleNamespace(view=view))

    def aim(text: str, port: int | None = None) -> Any:
        return trio.run(_aim_inside, cluster, ROW, text, port)

    for address in ("10.9.1.7", "fd00:9:1::7"):
        assert aim(address).addresses == DB.addresses
        assert aim(address).host_id == H2
        assert "its replicas are tested" in aim(address).named
        assert (aim(address, 80).addresses, aim(address, 80).port) == (DB.addresses, 8080)
    with pytest.raises(NotFoundError, match="port 81 of service db leads nowhere"):
        aim("10.9.1.7", 81)
    with pytest.raises(NotFoundError, match="service none has no replica that is up"):
        aim("10.9.1.8")


def test_a_host_is_named_by_itself_or_by_what_it_has() -> None:
    view = known()
    for text in ("h2", H2, "db", DB.addresses[0], DB.addresses[1]):
        assert _host_of(view, text)[0].host_id == H2
    with pytest.raises(NotFoundError, match="no host and no endpoint 'h9'"):
        _host_of(view, "h9")


def aimed(text: str, *gaps: Gap) -> Any:
    """Whom the host itself would ask for `text`."""

    async def overview() -> ClusterOverview:
        await trio.lowlevel.checkpoint()
        view = known().with_member(Member(H3, ("192.0.2.3", 7956), MemberState.LEFT, 1))
        return ClusterOverview(view.with_entries(Writer(H3).put(host("h3", underlay="192.0.2.3"))), gaps=gaps)

    cluster: Any = SimpleNamespace(
        gossip=SimpleNamespace(remote_networks=SimpleNamespace(overview=overview)),
        keys=SimpleNamespace(domain="mesh.internal"),
        probing=SimpleNamespace(prober=SimpleNamespace(path=lambda host_id: None)),
    )
    return trio.run(_aim_host, cluster, text, None)


def test_the_kernel_of_a_host_is_not_taken_for_the_container_that_was_named() -> None:
    assert aimed("db").called == "h2, the host of db,"
    assert aimed(DB.addresses[0]).called == f"h2, the host of {DB.addresses[0]},"
    assert aimed("h2").called == aimed(H2).called == ""
    with pytest.raises(InputError, match="'h1' is this host"):
        aimed("h1")
    with pytest.raises(InputError, match="'web' is on this host"):
        aimed("web")
    with pytest.raises(NotFoundError, match="host h3 has left the cluster"):
        aimed("h3")


def test_what_may_be_in_a_network_that_is_not_known_is_not_said_to_be_absent() -> None:
    gap = Gap(N2, GapReason.AWAY, (H2,))
    with pytest.raises(NotFoundError, match="no host and no endpoint 'cache'"):
        aimed("cache")
    with pytest.raises(FailedError, match="not all networks are known here: network other"):
        aimed("cache", gap)
    assert aimed("db", gap).host_id == H2


def test_a_path_without_a_shared_network_was_tried_with_small_packets() -> None:
    (path, _) = _far(known().hosts[H2], "h2", None, answers_now=True)
    assert not path.is_wrong
    assert path.says.startswith("small packets pass")


def test_the_policy_says_who_may_reach_whom() -> None:
    db = known().endpoints[DB.endpoint_id]
    assert not _policy(evidence(known()), ROW, db).is_wrong
    hop = _policy(evidence(known(Policy.LINKS)), ROW, db)
    assert hop.is_wrong
    assert "not linked to db" in hop.says
    assert hop.fix == "netagent link web db"
    assert not _policy(evidence(known(Policy.LINKS, ("db",))), ROW, db).is_wrong
    elsewhere = replace(ROW, network_id=N2)
    hop = _policy(evidence(known(), elsewhere), elsewhere, db)
    assert hop.is_wrong
    assert "networks are isolated from each other" in hop.says
    assert hop.fix == "netagent network connect app web"
