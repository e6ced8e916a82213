"""What the gossip does: traffic, records, and how long a change takes to reach all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from netagent.metrics.cluster_families import MAX_NETWORKS, OTHER
from netagent.openmetrics.family import counters, gauge, gauges, histograms
from netgossip.driver import Traffic
from netgossip.histogram import Histogram
from netgossip.types import CLUSTER_SCOPE, Channel, Scope

CLUSTER: str = "cluster"
"""The label of the scope that all hosts hold."""


def traffic_families(traffic: Mapping[Channel, Traffic]) -> Iterator[Metric]:
    """Yield what was sent and received on the two ports, as payloads: without headers of UDP, TCP and IP."""
    words = {Channel.GOSSIP: "membership", Channel.RECORD: "records"}
    yield counters(
        "netagent_gossip_datagrams",
        "Datagrams between agents.",
        ["port", "direction"],
        {
            (words[channel], direction): count
            for channel, one in traffic.items()
            for direction, count in (("sent", one.datagrams_sent), ("received", one.datagrams_received))
        },
    )
    yield counters(
        "netagent_gossip_bytes",
        "Octets in datagrams and streams between agents.",
        ["port", "direction"],
        {
            (words[channel], direction): count
            for channel, one in traffic.items()
            for direction, count in (("sent", one.bytes_sent), ("received", one.bytes_received))
        },
    )


_EVENTS = {
    "gossip_probes": "probe",
    "gossip_probes_failed": "probe_failed",
    "gossip_suspicions": "suspicion",
    "gossip_refutations": "refutation",
    "gossip_deaths_declared": "death_declared",
    "gossip_late_acks": "late_ack",
    "gossip_push_pulls": "push_pull",
    "gossip_lags": "own_lag",
    "gossip_streams_failed": "membership_stream_failed",
    "record_streams_failed": "record_stream_failed",
    "record_deltas_sent": "delta_sent",
    "record_deltas_applied": "delta_applied",
    "record_own_log_raised": "own_log_raised",
}
"""Counters of the node that have a meaning of their own, and their labels. Others are not shown."""


def node_families(statistics: Mapping[str, int | float]) -> Iterator[Metric]:
    """Yield what the gossip's node counts, but for what it refuses."""
    yield counters(
        "netagent_gossip_events",
        "What happened in membership and replication, by kind.",
        ["kind"],
        {(label,): statistics[name] for name, label in _EVENTS.items() if name in statistics},
    )
    yield gauge(
        "netagent_gossip_pushes_pending",
        "Changes of this host's records that a host has not acknowledged yet, per host and scope.",
        statistics["record_pushes_pending"],
    )
    yield gauge(
        "netagent_gossip_health_score",
        "How much this host doubts its own network: 0 is none; it then waits longer before it suspects others.",
        statistics["gossip_health_score"],
    )


def propagation_families(lags: Histogram) -> Iterator[Metric]:
    """Yield how long it takes until all others know what this host says."""
    yield histograms(
        "netagent_propagation_lag_seconds",
        "From a change of this host's records until every live host in its scope has acknowledged it, by samples.",
        [],
        {(): lags},
    )


def record_families(sizes: Mapping[Scope, tuple[int, int]], names: Mapping[Scope, str]) -> Iterator[Metric]:
    """Yield the records that this host holds, by scope. `names`: of the networks' scopes."""
    records: Counter[str] = Counter()
    octets: Counter[str] = Counter()
    shown = {
        scope: name for name, scope in sorted((name, scope) for scope, name in names.items())[:MAX_NETWORKS]
    }
    for scope, (count, size_bytes) in sizes.items():
        label = CLUSTER if scope == CLUSTER_SCOPE else f"network:{shown[scope]}" if scope in shown else OTHER
        records[label] += count
        octets[label] += size_bytes
    yield gauges(
        "netagent_records",
        "Records that this host holds, of all owners.",
        ["scope"],
        {(label,): count for label, count in records.items()},
    )
    yield gauges(
        "netagent_record_bytes",
        "Octets of these records, keys and values.",
        ["scope"],
        {(label,): count for label, count in octets.items()},
    )
