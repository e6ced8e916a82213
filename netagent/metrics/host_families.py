"""What the agent does on its host: kernel state, firewall, refusals, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from netagent.datapath.reconcile.reconciler import ReconcileStatus
from netagent.endpoints.attach_times import AttachTimes
from netagent.firewall.guard import GuardStatus
from netagent.model.records import Health
from netagent.openmetrics.family import as_label, counters, gauge, gauges, histograms
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
