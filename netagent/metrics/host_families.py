"""What the agent does on its host: kernel state, firewall, refusals, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from netagent.datapath.reconcile.reconciler import ReconcileStatus
from netagent.firewall.guard import GuardStatus
from netagent.metrics.family import as_label, counters, gauge, gauges


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
