"""Feeds as programs read them: Prometheus inside a container, HAProxy through a file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.services]

HTTP = str(Path(__file__).with_name("http_service.py"))
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "feeds.md"


@pytest.fixture
def web(app: Cluster) -> Cluster:
    """The service `web` has a replica on h2 and one on h3; h1 has a container `proxy`."""
    for host in ("h2", "h3"):
        replica(app, f"web-{host}", host)
    app.attach("h1", "proxy")
    return app


def replica(cluster: Cluster, name: str, host: str) -> None:
    cluster.attach(
        host,
        name,
        *("--service", "web", "--expose", "metrics=7080/tcp", "--label", "traefik.enable=true"),
        *("--label", "traefik.http.routers.shop.rule=Host(`shop.example.com`)"),
        *("--label", "traefik.http.services.shop.loadbalancer.server.port=7080"),
        command=("python3", HTTP, "serve", "7080"),
    )
    cluster.wait(
        lambda: cluster.inside(name, "ss", "-Hltn", "sport = :7080").stdout != "",
        10.0,
        f"no server in {name}",
    )


def fetch(cluster: Cluster, container: str, feed: str) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON, as `curl` inside a container gets them."""
    done = cluster.inside(
        container, "curl", "-sS", "-i", "--max-time", "10", f"http://127.0.0.11:7953/{feed}"
    )
    assert done.status == 0, done.stderr
    head, _, body = done.stdout.replace("\r", "").partition("\n\n")
    lines = head.split("\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), fields, json.loads(body) if body.startswith(("{", "[")) else body


def addresses(cluster: Cluster, name: str) -> str:
    (four,) = [one for one in cluster.answers("c1", name) if ":" not in one]
    return four


def test_a_container_reads_feeds_also_while_its_agent_is_away(web: Cluster) -> None:
    servers = sorted(f"http://{addresses(web, name)}:7080" for name in ("web-h2", "web-h3"))

    def traefik_servers() -> list[str]:
        status, _, config = fetch(web, "proxy", "traefik")
        assert status == 200
        services = config.get("http", {}).get("services", {})
        return [one["url"] for one in services.get("shop", {}).get("loadBalancer", {}).get("servers", [])]

    web.wait(lambda: traefik_servers() == servers, 5.0, "the feed lacks a replica")
    _, fields, config = fetch(web, "proxy", "traefik")
    assert config["http"]["routers"]["shop"] == {"rule": "Host(`shop.example.com`)", "service": "shop"}
    assert "x-netagent-age" not in fields
    # The table of the host has the same for programs on it.
    printed = json.loads(web.try_netagent("h1", "feed", "traefik").stdout)
    assert printed["http"]["routers"] == config["http"]["routers"]
    with web.agent_of("h1") as host:
        host.stop_agent()
        web.wait(lambda: "x-netagent-age" in fetch(web, "proxy", "traefik")[1], 5.0, "no age is shown")
        status, fields, stale = fetch(web, "proxy", "traefik")
        assert (status, stale) == (200, config)
        host.start_agent()
    web.wait(lambda: "x-netagent-age" not in fetch(web, "proxy", "traefik")[1], 10.0, "the age stays")
    web.netagent("h2", "drain", "web-h2")
    web.wait(
        lambda: traefik_servers() == servers[-1:] or traefik_servers() == servers[:1], 5.0, "it is fed on"
    )
    assert traefik_servers() == [f"http://{addresses(web, 'web-h3')}:7080"]


def test_a_domain_outside_the_rules_is_refused_and_named(app: Cluster) -> None:
    app.netagent("h1", "network", "create", "shop", "--feed-rule", "*.shop.example")
    for name, domain in (("good", "a.shop.example"), ("bad", "bank.example")):
        rule = f"traefik.http.routers.{name}.rule=Host(`{domain}`)"
        app.attach("h2", name, "--network", "shop", "--expose", "http=80/tcp", "--label", rule)
    app.attach("h1", "reader", "--network", "shop")

    def routers() -> set[str]:
        status, _, config = fetch(app, "reader", "traefik")
        return set(config["http"]["routers"]) if status == 200 and config else set()

    app.wait(lambda: routers() == {"good"}, 5.0, "another router than the one that is allowed")
    told = [
        one["message"] for one in app.netagent("h2", "status")["warnings"] if one["code"] == "label-left-out"
    ]
    assert len(told) == 1
    assert "bank.example" in told[0]
    assert not [one for one in app.netagent("h1", "status")["warnings"] if one["code"] == "label-left-out"]
    inspected = app.try_netagent("h1", "inspect", "bad", "--why", "--json")
    assert inspected.status == 1, "something of it is missing"
    why = json.loads(inspected.stdout)["why"]
    assert any("bank.example" in json.dumps(line) for line in why["objects"] if line["state"] == "missing")
    refused = app.try_netagent("h1", "network", "create", "shop", "--feed-rule", "bank.example")
    assert refused.status == 4
    assert "its feed rules are *.shop.example" in refused.stderr


def test_a_service_that_is_no_container_is_in_feeds(app: Cluster) -> None:
    app.netagent("h2", "service", "add", "pg", "--network", "app", "--address", "203.0.113.50:5432")

    def places() -> list[tuple[list[str], int]]:
        items = {item["name"]: item for item in fetch(app, "c1", "services")[2]["items"]}
        endpoints = items["pg"]["endpoints"] if "pg" in items else []
        return [(one["addresses"], one["ports"][0]["number"]) for one in endpoints if one["leading"]]

    app.wait(lambda: places() == [(["203.0.113.50"], 5432)], 5.0, "the service is not fed")
    app.netagent("h2", "service", "rm", "pg")
    app.wait(lambda: places() == [], 5.0, "the service stays")


def test_prometheus_scrapes_what_its_feed_names(web: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(
        re.search(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]  # type: ignore[index]
        + "        refresh_interval: 1s\n    scrape_interval: 1s\n"
    )
    command = (
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        "--web.listen-address=127.0.0.1:9090",
    )
    web.attach("h1", "monitor", command=command)

    def healthy() -> dict[str, str]:
        done = web.inside("monitor", "curl", "-sS", "http://127.0.0.1:9090/api/v1/targets?state=active")
        if done.status != 0 or not done.stdout.startswith("{"):
            return {}
        targets = json.loads(done.stdout)["data"]["activeTargets"]
        return {one["discoveredLabels"]["__meta_netagent_name"]: one["health"] for one in targets}

    both = {"web-h2": "up", "web-h3": "up"}
    web.wait(lambda: healthy() == both, 30.0, "Prometheus does not scrape both replicas")
    with web.agent_of("h1") as host:
        host.kill_agent()
        web.wait(lambda: "x-netagent-age" in fetch(web, "monitor", "prometheus")[1], 5.0, "no age is shown")
        assert healthy() == both
        host.start_agent()
    replica(web, "web-new", "h2")
    web.wait(lambda: healthy() == {**both, "web-new": "up"}, 20.0, "the new replica is not scraped")
    web.remove("web-new")
    web.wait(lambda: healthy() == both, 20.0, "the replica that went is still a target")


@pytest.fixture
def haproxy(web: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """HAProxy in the container `proxy`, fed by the script of the guide."""
    script = tmp_path / "feed-haproxy.py"
    script.write_text(re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1])  # type: ignore[index]
    feed, config, pid = (str(tmp_path / name) for name in ("app.json", "haproxy.cfg", "haproxy.pid"))
    host = web.lab.host("h1")
    watch = host.entering(["netagent", "feed", "services", "--network", "app", "--watch", "--file", feed])
    write = host.entering([sys.executable, str(script), feed, "web.app", "7080", config, pid])
    running = [subprocess.Popen(argv) for argv in (watch, write)]
    try:
        web.wait(lambda: Path(config).exists(), 10.0, "no configuration is written")
        proxy = web.lab.container("proxy")
        running.append(subprocess.Popen(proxy.entering(["haproxy", "-W", "-p", pid, "-f", config])))
        web.wait(lambda: Path(pid).exists() and Path(pid).read_text() != "", 10.0, "HAProxy has not started")
        web.wait(
            lambda: web.inside("proxy", "ss", "-Hltn", "sport = :8080").stdout != "", 10.0, "no port 8080"
        )
        yield web
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.wait(10)


def is_asked(cluster: Cluster, name: str) -> bool:
    return cluster.inside(name, "ss", "-Htn", "state", "connected", "sport = :7080").stdout != ""


def test_a_rolling_replacement_behind_haproxy_loses_no_request(haproxy: Cluster) -> None:
    argv = haproxy.lab.container("c2").entering(["python3", HTTP, "ask", "http://proxy:8080/"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as asking:
        try:
            for old, new, host in (("web-h2", "web-new2", "h2"), ("web-h3", "web-new3", "h3")):
                replica(haproxy, new, host)
                haproxy.netagent(host, "drain", old, "--wait", "20s")
                haproxy.remove(old)
                haproxy.wait(partial(is_asked, haproxy, new), 10.0, f"HAProxy leads no request to {new}")
            haproxy.wait(lambda: len(haproxy.ask("c1", "web").data) == 2, 5.0, "not two replicas")
        finally:
            output, _ = asking.communicate(timeout=60)
    report = json.loads(output)
    print(report)
    assert report["failed"] == []
    assert report["done"] > 100
    assert len(report["by"]) == 4, "each of the old and the new replicas answered"


def test_a_report_has_what_agent_and_kernel_say_but_no_value_of_a_label(web: Cluster, tmp_path: Path) -> None:
    archive = tmp_path / "h2.tar.gz"
    done = web.try_netagent("h2", "report", "--file", str(archive))
    assert done.status == 0, done.stderr
    with tarfile.open(archive) as tar:
        found = {one.name.removeprefix("netagent-report/"): tar.extractfile(one) for one in tar}
        entries = {name: file.read().decode() for name, file in found.items() if file is not None}
    assert json.loads(entries["status.json"])["host"]["name"] == "h2"
    assert "web-h2" in entries["endpoints.json"]
    assert "traefik.http.routers.shop.rule" in entries["endpoints.json"]
    assert not [name for name, text in entries.items() if "shop.example.com" in text]
    assert "table inet netagent" in entries["host/nft --stateless list ruleset.txt"]
    assert "vxlan" in entries["host/ip -details -statistics link.txt"]
    assert entries["doctor.txt"].startswith("host\n")
    ring = json.loads(web.lab.host("h2").path("/var/lib/netagent/keyring").read_text())
    keys = ring["keys"]
    assert keys
    assert not [name for name, text in entries.items() if any(key in text for key in keys)]
