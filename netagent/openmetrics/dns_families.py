"""What the resolver process counts. The process counts on while the agent is away, and for as long as it lives.

Its counters come by name (netagent.resolver.protocol, STATISTICS). One that a process of another release does not
have is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric

from netagent.openmetrics.family import counter, counters, gauge, gauges

_RCODES: Final = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED",
}  # fmt: skip
_SIZES: Final = {
    "sandboxes": ("netagent_dns_sandboxes", "Containers that are answered."),
    "rows": ("netagent_dns_rows", "Rows in the table from which names are answered."),
    "cache_entries": ("netagent_dns_cache_entries", "Upstream answers that are kept."),
    "cache_bytes": ("netagent_dns_cache_bytes", "Octets of these."),
    "flights": ("netagent_dns_waiting_questions", "Questions that wait for an upstream server."),
    "connections": ("netagent_dns_connections", "TCP connections of containers."),
    "feed_connections": ("netagent_feed_connections", "Connections of containers for feeds."),
}
_SERVER: Final = "server_"


def dns_families(counts: Mapping[str, int]) -> Iterator[Metric]:
    """Yield the metrics of names, from the counters of the resolver process."""
    yield counter("netagent_dns_queries", "Queries that were understood.", counts.get("queries", 0))
    yield counters(
        "netagent_dns_replies",
        "Replies to containers, by RCODE.",
        ["rcode"],
        {("NOERROR",): 0.0, ("SERVFAIL",): 0.0, ("NXDOMAIN",): 0.0} | dict(_replies(counts)),
    )
    yield counters(
        "netagent_dns_answers",
        "Queries by where the answer came from: finished before, the table, the cache, or an upstream server.",
        ["source"],
        {
            ("finished",): counts.get("hot_hits", 0),
            ("table",): _sum(counts, "answered_rcode_"),
            ("cache",): counts.get("cache_hits", 0),
            ("upstream",): counts.get("forwarded", 0),
        },
    )
    yield counter(
        "netagent_dns_failed",
        "Queries that could not be answered: no upstream server gave an answer, or too many waited.",
        counts.get("failed", 0),
    )
    yield _histogram(
        counts,
        "netagent_dns_latency_seconds",
        "From reading a query to sending its reply; upstream: of queries that had to wait for a name server.",
        "answer",
        {"answered": "here", "waited": "upstream"},
    )
    yield _histogram(
        counts,
        "netagent_resolver_loop_pass_duration_seconds",
        "How long a pass of the resolver process's event loop takes.",
        None,
        {"pass": ""},
    )
    yield from _servers(counts)
    for name, (family, text) in _SIZES.items():
        if name in counts:
            yield gauge(family, text, counts[name])


def _replies(counts: Mapping[str, int]) -> Iterator[tuple[tuple[str], float]]:
    for name, count in counts.items():
        if name.startswith("rcode_"):
            number = int(name.removeprefix("rcode_"))
            yield (_RCODES.get(number, str(number)),), count


def _sum(counts: Mapping[str, int], prefix: str) -> int:
    return sum(count for name, count in counts.items() if name.startswith(prefix))


def _histogram(
    counts: Mapping[str, int], name: str, text: str, label: str | None, parts: Mapping[str, str]
) -> Metric:
    """Return a histogram from counts as `netdns.latency` gives them. `parts`: their names, and the label's values."""
    family = HistogramMetricFamily(name, text, labels=(label,) if label else ())
    for part, said in parts.items():
        count = counts.get(f"{part}_count")
        if count is None:
            continue
        upto = {
            int(key.removeprefix(f"{part}_le_").removesuffix("_us")): value
            for key, value in counts.items()
            if key.startswith(f"{part}_le_")
        }
        buckets = [(str(bound / 1e6), float(upto[bound])) for bound in sorted(upto)]
        key = (said,) if label else ()
        family.add_metric(key, [*buckets, ("+Inf", count)], counts.get(f"{part}_sum_us", 0) / 1e6)
    return family


def _servers(counts: Mapping[str, int]) -> Iterator[Metric]:
    """Yield the host's own name servers; there are as many as its resolv.conf lists."""
    known = {
        name.removeprefix(_SERVER).removesuffix("_up")
        for name in counts
        if name.startswith(_SERVER) and name.endswith("_up")
    }

    def of(what: str) -> dict[tuple[str], float]:
        return {(one,): counts.get(f"{_SERVER}{one}_{what}", 0) for one in sorted(known)}

    yield gauges(
        "netagent_dns_upstream_up",
        "1 if the name server answers, or was not asked yet; it is skipped while it is 0.",
        ["server"],
        of("up"),
    )
    yield gauges(
        "netagent_dns_upstream_rtt_seconds",
        "Smoothed time until the name server answers; 0.05 before its first answer.",
        ["server"],
        {key: value / 1e6 for key, value in of("rtt_us").items()},
    )
    for what, text in (
        ("asked", "Queries sent to the name server, each repetition counted."),
        ("answered", "Answers of the name server."),
        ("unanswered", "Queries that the name server left unanswered until the end of their time."),
    ):
        yield counters(f"netagent_dns_upstream_{what}", text, ["server"], of(what))
