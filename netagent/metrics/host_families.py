"""What the agent does on its host: kernel state, firewall, refusals, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from netagent.datapath.reconcile.reconciler import ReconcileStatus
from netagent.endpoints.attach_times import AttachTimes
from netagent.firewall.guard import GuardStatus
from netagent.metrics.cluster_families import MAX_PATHS
from netagent.model.ids import HostId
from netagent.model.records import EncryptionStage, Health
from netagent.openmetrics.family import as_label, counters, gauge, gauges, histograms
from netagent.tunnel.peer import PeerState, has_session
from netgossip.histogram import Histogram


def kernel_families(datapath: ReconcileStatus, guard: GuardStatus) -> Iterator[Metric]:
    """Yield what is in the kernel, and what was repaired there."""
    yield gauge("netagent_datapath_devices", "Devices of ours in the kernel.", datapath.devices)
    yield gauges(
        "netagent_datapath_entries",
        "Entries of ours in the kernel, by kind.",
        ["kind"],
        {(as_label(kind),): count for kind, count in datapath.kinds.items()},
    )
    yield gauge("netagent_datapath_failures", "Operations that the kernel refuses now.", datapath.failures)
    yield gauge(
        "netagent_datapath_pending",
        "1 while the kernel is not yet as the records say.",
        float(datapath.programmed_generation < datapath.generation),
    )
    drift = {(as_label(kind),): count for kind, count in datapath.drift.items()}
    yield counters(
        "netagent_drift_repaired",
        "Changes by other programs to what is ours in the kernel that were repaired, by kind.",
        ["kind"],
        drift | {("firewall",): guard.restored},
    )
    yield counters(
        "netagent_dropped_packets",
        "Packets that the firewall's rules of ours dropped, by reason.",
        ["reason"],
        {(reason,): count for reason, count in guard.dropped.items()},
    )


def refusal_families(refused: Mapping[tuple[str, str], float]) -> Iterator[Metric]:
    """Yield what came and was refused, by the part that refused it and the reason."""
    yield counters(
        "netagent_refused",
        "Packets, records and queries that came and were refused.",
        ["part", "reason"],
        refused,
    )


def trouble_families(troubles: Mapping[str, bool]) -> Iterator[Metric]:
    """Yield which parts cannot do their work."""
    yield gauges(
        "netagent_trouble",
        "1 where a part of the agent cannot do its work; `netagent status` says why, and what to do.",
        ["part"],
        {(part,): float(is_so) for part, is_so in troubles.items()},
    )


def encryption_families(
    stage: EncryptionStage, peers: int, states: Mapping[HostId, PeerState], name_of: Callable[[HostId], str]
) -> Iterator[Metric]:
    """Yield how far this host is on the way to encrypted packets, and what its tunnel carries. `peers`: other hosts;
    `states`: of those with a place in the tunnel."""
    is_encrypted = stage >= EncryptionStage.SENDING
    connected = sum(map(has_session, states.values())) if is_encrypted else 0
    yield gauge(
        "netagent_encryption_stage",
        "0: packets leave in the clear; 1: there is a tunnel, too; 2: they leave by the tunnel alone; 3: the "
        "firewall refuses all others.",
        stage,
    )
    yield gauge("netagent_encrypted_paths", "Paths to other hosts that are encrypted.", connected)
    yield gauge(
        "netagent_unencrypted_paths",
        "Paths to other hosts that are not encrypted, or would be if there were a session.",
        max(peers - connected, 0),
    )
    first = sorted(states.items(), key=lambda one: (has_session(one[1]), one[0]))[:MAX_PATHS]
    shown = {(as_label(name_of(host_id)),): state for host_id, state in first}
    yield gauges(
        "netagent_tunnel_handshake_age_seconds",
        "Since the last handshake with a host; 180 or more: nothing passes.",
        ["host"],
        {key: one.handshake_s_ago for key, one in shown.items() if one.handshake_s_ago is not None},
    )
    yield counters(
        "netagent_tunnel_bytes",
        "What the encrypted tunnel carried, by host and direction. From the start again when its process does.",
        ["host", "direction"],
        {(*key, "sent"): one.sent_bytes for key, one in shown.items()}
        | {(*key, "received"): one.received_bytes for key, one in shown.items()},
    )


def reconcile_families(durations: Histogram) -> Iterator[Metric]:
    """Yield how long the kernel's state takes to be compared and changed."""
    yield histograms(
        "netagent_reconcile_duration_seconds",
        "How long a pass takes that compares the kernel with the records, and changes it.",
        [],
        {(): durations},
    )


def attach_families(times: AttachTimes) -> Iterator[Metric]:
    """Yield how long attaches of this host's containers take."""
    yield histograms(
        "netagent_attach_duration_seconds",
        "How long attaching a container takes; of Docker the call after which the container's program runs.",
        ["runtime"],
        times.totals,
    )
    yield histograms(
        "netagent_attach_stage_duration_seconds",
        "How long each stage of attaching takes.",
        ["runtime", "stage"],
        times.stages,
    )
    yield counters(
        "netagent_attach_failures",
        "Attaches that failed, and left nothing behind.",
        ["runtime"],
        times.failures,
    )


def check_families(asked: Mapping[tuple[str, str], int], healths: Mapping[Health, int]) -> Iterator[Metric]:
    """Yield what the checks of this host's endpoints say."""
    yield counters(
        "netagent_checks",
        "Checks of this host's endpoints that were made, by kind and result.",
        ["kind", "result"],
        asked,
    )
    yield gauges(
        "netagent_checked_endpoints",
        "Endpoints of this host that have checks, by what these say.",
        ["health"],
        {
            (health.value,): healths.get(health, 0)
            for health in (Health.HEALTHY, Health.STARTING, Health.UNHEALTHY)
        },
    )


def loop_families(passes: Histogram) -> Iterator[Metric]:
    """Yield how long tasks of the agent wait for each other."""
    yield histograms(
        "netagent_loop_pass_duration_seconds",
        "How long a pass of the agent's event loop takes: a task that becomes ready waits at most two of them.",
        [],
        {(): passes},
    )
