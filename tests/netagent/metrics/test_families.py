"""What the families say, read back by the parser of prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable

from fakes.registry import identifier
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from netagent.metrics import cluster_families, gossip_families
from netagent.metrics.cluster_families import MAX_NETWORKS, MAX_PATHS, OTHER
from netagent.metrics.host_families import encryption_families
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import EncryptionStage
from netagent.openmetrics.dns_families import dns_families
from netagent.openmetrics.family import counter, counters, gauges, histograms
from netagent.openmetrics.text import rendered
from netagent.probes.quality import PathStatus, Quality
from netagent.registry.record_codec import scope_of
from netagent.registry.view import RegistryView
from netagent.tunnel.peer import PeerState
from netdns.latency import Latency
from netgossip.driver import Traffic
from netgossip.histogram import Histogram
from netgossip.slices import at_once
from netgossip.types import CLUSTER_SCOPE, Channel, Member, MemberState

HERE = HostId("0" * 32)


def samples(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of an OpenMetrics text; the parser refuses one that breaks the format."""
    text = at_once(rendered((one,) for one in families)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def member(number: int, state: MemberState = MemberState.ALIVE) -> Member:
    host_id = f"{number:08x}{0:024}"
    return Member(host_id, (f"192.0.2.{number % 250}", 7946), state, 1, f"h{number}".encode(), b"")


def view_of(count: int, *, dead: Iterable[int] = ()) -> RegistryView:
    view = RegistryView(HERE)
    for number in range(count):
        view = view.with_member(
            member(number, MemberState.DEAD if number in set(dead) else MemberState.ALIVE)
        )
    return view


def test_text_from_outside_cannot_break_the_format() -> None:
    found = samples([gauges("netagent_x", "Of x.", ["host"], {('a"b\\c\nd{}',): 1.5})])
    assert found == {of("netagent_x", host='a"b\\c\nd{}'): 1.5}


def test_counters_and_histograms_have_the_samples_that_the_format_wants() -> None:
    values = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        values.observe(value)
    found = samples(
        [
            counter("netagent_a", "A.", 3),
            counters("netagent_b", "B.", ["kind"], {("x",): 2}),
            histograms("netagent_c_seconds", "C.", ["kind"], {("x",): values}),
        ]
    )
    assert found[of("netagent_a_total")] == 3
    assert found[of("netagent_b_total", kind="x")] == 2
    assert [found[of("netagent_c_seconds_bucket", kind="x", le=le)] for le in ("0.1", "1.0", "+Inf")] == [
        2,
        3,
        4,
    ]
    assert found[of("netagent_c_seconds_count", kind="x")] == 4
    assert found[of("netagent_c_seconds_sum", kind="x")] == 7.65


def test_members_are_counted_by_state_and_this_host_is_alive() -> None:
    found = samples(cluster_families.member_families(view_of(5, dead=[3, 4])))
    assert found[of("netagent_members", state="alive")] == 3
    assert found[of("netagent_members", state="dead")] == 2
    assert found[of("netagent_members", state="left")] == 0
    assert found[of("netagent_kernels", state="unknown")] == 4


def test_paths_that_are_not_well_have_series_however_many_hosts_there_are() -> None:
    view = view_of(3 * MAX_PATHS)
    bad = HostId(f"{3 * MAX_PATHS - 1:08x}{0:024}")

    def path(host_id: HostId) -> PathStatus:
        if host_id == bad:
            return PathStatus(Quality.LOSSY, 1450, 1450, 0.25, 0.001)
        return PathStatus(Quality.OK, 1450, 1450, 0.0, 0.001)

    found = samples(cluster_families.path_families(view, lambda _: 0.001, path))
    assert found[of("netagent_paths", state="ok")] == 3 * MAX_PATHS - 2
    assert found[of("netagent_paths", state="lossy")] == 1
    assert sum(name == "netagent_path_rtt_seconds" for name, _ in found) == MAX_PATHS
    shown = view.hosts[bad].unique_name or bad[:8]
    assert found[of("netagent_path_loss_ratio", host=shown)] == 0.25
    assert found[of("netagent_path_up", host=shown)] == 0


def test_a_silent_kernel_is_a_path_that_is_down() -> None:
    view = view_of(2).with_host_answers({HostId(f"{1:08x}{0:024}"): False})
    found = samples(cluster_families.path_families(view, lambda _: None, lambda _: None))
    assert found[of("netagent_paths", state="down")] == 1


def test_records_of_more_networks_than_have_series_are_summed_up() -> None:
    count = MAX_NETWORKS + 10
    names = {scope_of(NetworkId(identifier(number + 1))): f"n{number:04}" for number in range(count)}
    sizes = {CLUSTER_SCOPE: (7, 700), **dict.fromkeys(names, (2, 100))}
    found = samples(gossip_families.record_families(sizes, names))
    assert found[of("netagent_records", scope="cluster")] == 7
    assert found[of("netagent_records", scope="network:n0000")] == 2
    assert found[of("netagent_record_bytes", scope=OTHER)] == 10 * 100
    assert sum(name == "netagent_records" for name, _ in found) == MAX_NETWORKS + 2


def test_a_network_called_cluster_is_not_the_cluster_s_scope() -> None:
    scope = scope_of(NetworkId(identifier(1)))
    found = samples(
        gossip_families.record_families({CLUSTER_SCOPE: (1, 1), scope: (2, 2)}, {scope: "cluster"})
    )
    assert found[of("netagent_records", scope="cluster")] == 1
    assert found[of("netagent_records", scope="network:cluster")] == 2


def test_traffic_is_told_apart_by_port_and_direction() -> None:
    traffic = {Channel.GOSSIP: Traffic(1, 2, 30, 40), Channel.RECORD: Traffic(5, 6, 70, 80)}
    found = samples(gossip_families.traffic_families(traffic))
    assert found[of("netagent_gossip_datagrams_total", port="membership", direction="received")] == 2
    assert found[of("netagent_gossip_bytes_total", port="records", direction="sent")] == 70


def test_the_resolver_s_counters_become_replies_answers_and_a_histogram() -> None:
    latency = Latency()
    latency.observe(0.000_02, 3)
    latency.observe(0.3)
    counts = {
        "queries": 10,
        "hot_hits": 4,
        "answered_rcode_0": 2,
        "answered_rcode_3": 1,
        "cache_hits": 1,
        "forwarded": 2,
        "rcode_0": 7,
        "rcode_3": 2,
        "rcode_9": 1,
        "server_192.0.2.53_up": 0,
        "server_192.0.2.53_rtt_us": 1500,
        "server_192.0.2.53_asked": 5,
        "server_2001:db8::53_up": 1,
        **latency.statistics("answered"),
    }
    found = samples(dns_families(counts))
    assert found[of("netagent_dns_queries_total")] == 10
    assert found[of("netagent_dns_replies_total", rcode="NXDOMAIN")] == 2
    assert found[of("netagent_dns_replies_total", rcode="SERVFAIL")] == 0
    assert found[of("netagent_dns_replies_total", rcode="9")] == 1
    assert found[of("netagent_dns_answers_total", source="table")] == 3
    assert found[of("netagent_dns_latency_seconds_bucket", answer="here", le="2.5e-05")] == 3
    assert found[of("netagent_dns_latency_seconds_count", answer="here")] == 4
    assert found[of("netagent_dns_upstream_up", server="192.0.2.53")] == 0
    assert found[of("netagent_dns_upstream_rtt_seconds", server="192.0.2.53")] == 0.0015
    assert found[of("netagent_dns_upstream_asked_total", server="192.0.2.53")] == 5
    assert found[of("netagent_dns_upstream_up", server="2001:db8::53")] == 1


def test_a_process_that_says_nothing_gives_no_histogram_and_zeros() -> None:
    found = samples(dns_families({}))
    assert found[of("netagent_dns_queries_total")] == 0
    assert not [name for name, _ in found if name.startswith("netagent_dns_latency")]


def test_the_tunnel_says_which_paths_are_encrypted_and_what_it_carried() -> None:
    def peer(ago_s: float | None) -> PeerState:
        return PeerState(endpoint=None, handshake_s_ago=ago_s, received_bytes=7, sent_bytes=9)

    states = {HostId("1" * 32): peer(12.0), HostId("2" * 32): peer(200.0), HostId("3" * 32): peer(None)}
    found = samples(encryption_families(EncryptionStage.FENCED, 4, states, lambda host_id: f"h{host_id[0]}"))
    assert found[of("netagent_encryption_stage")] == 3
    assert found[of("netagent_encrypted_paths")] == 1
    assert found[of("netagent_unencrypted_paths")] == 3
    assert found[of("netagent_tunnel_handshake_age_seconds", host="h2")] == 200
    assert of("netagent_tunnel_handshake_age_seconds", host="h3") not in found
    assert found[of("netagent_tunnel_bytes_total", host="h1", direction="sent")] == 9
    clear = samples(encryption_families(EncryptionStage.READY, 4, states, lambda host_id: host_id))
    assert clear[of("netagent_encrypted_paths")] == 0, "sessions alone encrypt nothing"


def test_many_hosts_with_a_tunnel_are_bounded_and_those_without_a_session_come_first() -> None:
    states = {
        HostId(f"{number:032x}"): PeerState(
            endpoint=None, handshake_s_ago=None if number == 199 else 1.0, received_bytes=0, sent_bytes=0
        )
        for number in range(200)
    }
    found = samples(encryption_families(EncryptionStage.FENCED, 200, states, lambda host_id: host_id))
    hosts = {dict(labels)["host"] for name, labels in found if name == "netagent_tunnel_bytes_total"}
    assert len(hosts) == MAX_PATHS
    assert f"{199:032x}" in hosts
