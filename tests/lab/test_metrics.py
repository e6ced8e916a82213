"""Metrics as Prometheus reads them: from an agent, and from the resolver process while the agent is away."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest
from lab.harness import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.services]

DOCS = Path(__file__).resolve().parents[2] / "docs"
MONITORING = DOCS / "monitoring"
PATIENCE_S = 60.0

MAY_BE_EMPTY = re.compile(
    r"> 0$|== 0|failures|netagent_checks_total|netagent_path_(loss|mtu)|attach_(stage_)?duration"
)
"""Queries of what has not happened in this lab, or needs more time: there is no failure, no check, and no attach
between two scrapes; loss is known after many probes."""


def scraped(cluster: Cluster, host: str = "h1") -> str:
    done = cluster.lab.host(host).run(["curl", "-sS", "http://127.0.0.1:7958/metrics"])
    return done.stdout if done.status == 0 and done.stdout.endswith("# EOF\n") else ""


def value(text: str, sample: str) -> float | None:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def families(text: str) -> dict[str, str]:
    """The families of a text, and what each says."""
    return dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))


@pytest.fixture
def prometheus(lasting: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """Prometheus on h1, with the rules, by the configuration of the guide; it scrapes each second."""
    guide = (DOCS / "how-to" / "monitoring.md").read_text()
    shown = re.search(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert shown is not None
    text = shown[1].replace("/etc/prometheus/netagent-alerts.yml", str(MONITORING / "alerts.yml"))
    config = tmp_path / "prometheus.yml"
    config.write_text("global: {scrape_interval: 1s, evaluation_interval: 1s}\n" + text)
    argv = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        "--web.listen-address=127.0.0.1:9090",
    ]
    running = subprocess.Popen(lasting.lab.host("h1").entering(argv), stderr=subprocess.DEVNULL)
    try:
        yield lasting
    finally:
        running.terminate()
        running.wait()


def ask(cluster: Cluster, path: str, **query: str) -> dict[str, object]:
    url = f"http://127.0.0.1:9090/api/v1/{path}?{urlencode(query)}"
    done = cluster.lab.host("h1").run(["curl", "-sS", url])
    if not done.stdout.startswith("{"):
        return {"status": "no answer", "error": done.stderr}
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def found(cluster: Cluster, expression: str) -> list[object]:
    answer = ask(cluster, "query", query=expression)
    data = answer.get("data")
    return data["result"] if isinstance(data, dict) else []


def has_samples(cluster: Cluster, expression: str) -> bool:
    return found(cluster, expression) != []


def test_the_dashboard_s_queries_and_the_rules_work_on_what_prometheus_reads(prometheus: Cluster) -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    queries = [
        target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    prometheus.wait(
        lambda: found(prometheus, 'up{job="netagent"} == 1') != [], PATIENCE_S, "Prometheus reads nothing"
    )
    assert prometheus.ask("c1", "c2").status == "NOERROR"
    for query in queries:
        answer = ask(prometheus, "query", query=query)
        assert answer["status"] == "success", (query, answer)
        if not MAY_BE_EMPTY.search(query):
            prometheus.wait(
                partial(has_samples, prometheus, query), PATIENCE_S, f"nothing is found by {query}"
            )
    rules = ask(prometheus, "rules")["data"]
    assert isinstance(rules, dict)
    health = {rule["name"]: rule["health"] for group in rules["groups"] for rule in group["rules"]}
    assert set(health.values()) <= {"ok", "unknown"}, health
    assert len(health) > 10


def test_the_reference_lists_what_there_is(lasting: Cluster) -> None:
    reference = (DOCS / "reference" / "metrics.md").read_text()
    listed = {
        name: said
        for name, _, said in re.findall(r"^\| `(\w+)` \| ([^|]*) \| (.*) \|$", reference, re.MULTILINE)
    }
    assert listed == families(scraped(lasting))


def test_names_are_counted_and_read_while_the_agent_is_away(lasting: Cluster) -> None:
    counted = "netagent_dns_queries_total"
    before = value(scraped(lasting), counted)
    assert before is not None
    with lasting.agent_of("h1") as host:
        host.kill_agent()
        lasting.wait(
            lambda: value(scraped(lasting), "netagent_agent_up") == 0, PATIENCE_S, "no process stands in"
        )
        for _ in range(5):
            assert lasting.ask("c1", "c2").status == "NOERROR"
        # One text answers all who ask within half a second.
        lasting.wait(
            lambda: (value(scraped(lasting), counted) or 0) >= before + 5, PATIENCE_S, "nothing is counted"
        )
        assert value(scraped(lasting), 'netagent_dns_latency_seconds_count{answer="here"}')
        health = lasting.lab.host("h1").run(
            ["curl", "-sS", "-w", "%{http_code}", "http://127.0.0.1:7958/healthz"]
        )
        assert health.stdout.endswith("503")
        host.start_agent()
    lasting.wait(
        lambda: value(scraped(lasting), "netagent_agent_up") == 1, PATIENCE_S, "the agent is not back"
    )
    lasting.wait(
        lambda: (value(scraped(lasting), counted) or 0) >= before + 5, PATIENCE_S, "the counters begin anew"
    )


def test_no_container_is_named(lasting: Cluster) -> None:
    lasting.wait(lambda: scraped(lasting) != "", PATIENCE_S, "no metrics")
    text = scraped(lasting)
    assert not re.search(r'"c[123]"', text)
    assert value(text, 'netagent_local_endpoints{network="app"}') == 1
    assert value(text, 'netagent_endpoints{network="app"}') == 3
