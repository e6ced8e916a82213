"""What cannot be is refused with the reason and the right exit status, and leaves no trace anywhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import Any

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.programs import Finished
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

SMALL = "10.77.0.0/28"
SMALL_ADDRESSES = 16 - 3
"""Without the network's, the gateway's and the broadcast address."""
REACHED_S = 1.0
"""From the moment that `attach` returns."""


@pytest.fixture
def bare(lasting: Cluster) -> Iterator[None]:
    """A container `bare` on h1, in no network."""
    lasting.lab.add_container("bare", "h1", [])
    yield
    lasting.lab.remove_container("bare", kill=True)


@pytest.fixture
def refused(lasting: Cluster, bare: None) -> Callable[..., str]:
    """Runs a command that must be refused with this status, checks that it left no trace, returns its complaint."""
    app = lasting
    before: dict[str, Any] = {}

    def run(status: int, host: str, *arguments: str) -> str:
        nonlocal before
        before = settled(app, before)
        said = complaint(app, status, host, *arguments)
        assert app.traces() == before
        return said

    return run


def settled(app: Cluster, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """The traces, once they are as the time before: what a test did may still be on its way to other hosts."""
    seen = [known]

    def is_settled() -> bool:
        seen.append(app.traces())
        return seen[-1] == seen[-2]

    app.wait(is_settled, 20.0, "the hosts do not come to rest")
    assert seen[-1] is not None
    return seen[-1]


def complaint(app: Cluster, status: int, host: str, *arguments: str) -> str:
    """What a command says that must be refused with this status."""
    done = app.try_netagent(host, *arguments)
    assert done.status == status, (arguments, done.status, done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) <= 3, "one sentence, and a hint"
    return done.stderr


def attach(target: str, *options: str) -> tuple[str, ...]:
    return ("attach", target, "--network", "app", *options)


def test_the_same_subnet_twice(lasting: Cluster, refused: Callable[..., str]) -> None:
    app = lasting
    app.netagent("h1", "network", "create", "back", "--subnet", "10.77.0.0/24")
    for host in ("h1", "h2"):
        said = refused(4, host, "network", "create", "other", "--subnet", "10.77.0.0/24")
        assert "10.77.0.0/24" in said
        assert "back" in said
    refused(4, "h3", "network", "create", "other", "--subnet", "10.77.0.128/25")
    app.netagent("h1", "network", "rm", "back")


def test_scenario_35_a_subnet_that_overlaps_a_route_of_any_host(
    lasting: Cluster, refused: Callable[..., str]
) -> None:
    app = lasting
    app.lab.host("h2").must(["ip", "route", "add", "10.200.0.0/16", "via", "192.0.2.254"])
    said = ""

    def is_refused() -> bool:
        nonlocal said
        done = app.try_netagent("h1", "network", "create", "other", "--subnet", "10.200.7.0/24")
        said = done.stderr
        if done.status == 0:
            app.netagent("h1", "network", "rm", "other")
        return done.status == 4

    app.wait(is_refused, 15.0, "h1 does not learn of h2's route")
    assert "10.200.0.0/16" in said
    assert "h2" in said
    refused(4, "h2", "network", "create", "other", "--subnet", "10.200.7.0/24")
    refused(4, "h3", "network", "create", "other", "--subnet", "192.0.2.0/25")
    app.lab.host("h2").must(["ip", "route", "del", "10.200.0.0/16"])


def test_scenario_30_a_full_subnet(app: Cluster) -> None:
    """Refused at once with the counts of all hosts that were asked; one release is enough, wherever it is."""
    app.netagent("h1", "network", "create", "small", "--subnet", SMALL)
    for number in range(SMALL_ADDRESSES):
        app.attach(app.hosts[number % 3], f"s{number}", "--network", "small")
    app.lab.add_container("late", "h2", [])
    late = ("attach", "netns:late", "--network", "small", "--name", "late")
    before, began = settled(app), time.monotonic()
    done = app.try_netagent("h2", *late)
    assert time.monotonic() - began < 5.0, "no host is silent, so there is no wait"
    assert done.status == 4
    assert "network small has no free address" in done.stderr
    assert re.search(r"all \d+ addresses of this host are in use", done.stderr)
    for host in ("h1", "h3"):
        assert re.search(rf"{host}: 0 of \d+ free", done.stderr), done.stderr
    assert app.traces() == before
    for host in app.hosts:
        (use,) = [n["use"] for n in app.netagent(host, "network", "ls") if n["name"] == "small"]
        assert (use["total"], use["used"], use["free"], use["unowned"]) == (SMALL_ADDRESSES, 13, 0, 0), host
        assert {share["host"] for share in use["owners"]} == set(app.hosts)
    app.netagent("h3", "detach", "s2")
    assert app.netagent("h2", *late)["addresses"], "it asks h3, which has one address that is free"


def test_names_that_are_unknown_or_taken(refused: Callable[..., str]) -> None:
    assert "nowhere" in refused(1, "h1", "attach", "netns:bare", "--network", "nowhere", "--name", "bare")
    said = refused(4, "h1", *attach("netns:bare", "--name", "c1"))
    assert "c1" in said
    assert "vanished" in refused(4, "h1", *attach("netns:vanished"))
    refused(4, "h1", *attach("pid:4194304"))
    refused(1, "h1", "network", "inspect", "nowhere")
    refused(1, "h1", "inspect", "nothing-of-that-name")
    refused(1, "h1", "detach", "nothing-of-that-name")


def test_scenario_34_static_address_and_mac(lasting: Cluster, refused: Callable[..., str]) -> None:
    """In use: refused with the owner named. Else granted, kept over restarts, and moved between hosts at once."""
    app = lasting
    c2 = {one["name"]: one for one in app.netagent("h2", "endpoints")}["c2"]
    for host, container in (("h1", "c1"), ("h2", "c2")):
        for address in app.answers("c1", container):
            assert f"{address} belongs to {container} on host {host}" in refused(
                4, "h1", *attach("netns:bare", "--ip", address)
            )
    assert f"{c2['mac']} belongs to c2 on host h2" in refused(
        4, "h1", *attach("netns:bare", "--mac", c2["mac"])
    )
    refused(4, "h1", *attach("netns:bare", "--ip", "203.0.113.7"))

    mac, ipv4 = "06:00:5e:00:53:01", str(ip_network(c2["addresses"][0] + "/20", strict=False)[-7])
    fixed = ("--ip", ipv4, "--mac", mac)
    app.lab.add_container("moved", "h1", [])
    app.lab.add_container("moved2", "h2", [])
    app.lab.add_container("bare3", "h3", [])

    def assert_has(host: str, container: str, name: str) -> None:
        """The kernel inside has both, and every host's containers that know the name reach it by the first packet."""
        assert mac in app.inside(container, "ip", "link", "show", "eth0").stdout
        assert f" {ipv4}/" in app.inside(container, "ip", "address", "show", "eth0").stdout
        shown = {one["name"]: one for one in app.netagent(host, "endpoints")}["moved"]
        assert (shown["addresses"][0], shown["mac"], shown["state"]) == (ipv4, mac, "up")
        for client in ("c1", "c2", "c3"):
            app.wait(lambda: app.ask(client, name).data == [ipv4], REACHED_S, f"{client} lacks it")
            assert app.pings(client, ipv4), f"{client} does not reach it on {host}"

    app.netagent("h1", *attach("netns:moved", *fixed))
    assert_has("h1", "moved", "moved")
    assert f"{ipv4} belongs to moved on host h1" in refused(4, "h3", *attach("netns:bare3", "--ip", ipv4))
    with app.agent_of("h1") as agent:
        agent.stop_agent()
        agent.start_agent()
    assert_has("h1", "moved", "moved")
    # Its container is started anew: the same again, though a freed address cools down for others.
    app.netagent("h1", "detach", "moved")
    app.netagent("h1", *attach("netns:moved", *fixed, "--service", "again"))
    assert_has("h1", "moved", "again")
    # To another host, as soon as that has heard of it.
    app.netagent("h1", "detach", "moved")
    app.wait(lambda: "moved" not in app.endpoint_names("h2"), REACHED_S, "h2 does not hear that it is free")
    app.netagent("h2", *attach("netns:moved2", "--name", "moved", *fixed))
    assert_has("h2", "moved2", "moved.h2.app.mesh.internal")
    app.netagent("h2", "detach", "moved")
    for made in ("moved", "moved2", "bare3"):
        app.lab.remove_container(made, kill=True)


def test_bad_words_are_refused_before_anything_is_done(lasting: Cluster, bare: None) -> None:
    app = lasting
    before = settled(app)
    for name in ("Upper", "-dash", "under_", "dot.ted", "x" * 64, "", "späße", "a b", "a\nb", "../up"):
        if name:  # an empty option is one not given
            complaint(app, 2, "h1", *attach("netns:bare", f"--name={name}"))
            complaint(app, 2, "h1", *attach("netns:bare", "--name=good", f"--service={name}"))
        complaint(app, 2, "h1", "network", "create", f"--subnet={SMALL}", "--", name)
    for arguments in (
        ("network", "create", "other", "--subnet", "10.0.0.0/33"),
        ("network", "create", "other", "--subnet", "10.0.0.1/24"),
        ("network", "create", "other", "--mtu", "1"),
        attach("nonsense:bare"),
        attach("netns:../../etc"),
        attach("netns:bare", "--ip", "10.0.0.300"),
        attach("netns:bare", "--expose", "http=99999/tcp"),
        attach("netns:bare", "--ifname", "a/b"),
        attach("netns:bare", "--label", "no-value"),
    ):
        complaint(app, 2, "h1", *arguments)
    assert app.traces() == before


@pytest.fixture
def small_disk(new_lab: Callable[[], Lab]) -> Cluster:
    """One host in a cluster of its own, whose state lies on a disk of four megabytes."""
    lab = new_lab()
    lab.up(of_hosts(1), agents=False)
    lab.host("h1").must(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", "/var/lib/netagent", "--mkdir"]
    )
    with lab.changing("h1") as host:
        host.start_agent()
    cluster = Cluster(lab, ThreadPoolExecutor(1))
    cluster.netagent("h1", "init")
    cluster.netagent("h1", "network", "create", "app")
    return cluster


def test_a_full_disk_refuses_and_recovers(small_disk: Cluster) -> None:
    small_disk.attach("h1", "c1")
    host = small_disk.lab.host("h1")
    host.run(["dd", "if=/dev/zero", "of=/var/lib/netagent/filler", "bs=4096"])

    def attempt(name: str) -> Finished:
        return small_disk.try_netagent("h1", "attach", f"netns:{name}", "--network", "app", "--name", name)

    # The journal may have room left inside its own files, but not for many endpoints.
    for number in range(2, 60):
        name = f"c{number}"
        small_disk.lab.add_container(name, "h1", [])
        before = small_disk.traces()
        if (done := attempt(name)).status != 0:
            break
    assert done.status == 4
    assert "/var/lib/netagent: the disk is full" in done.stderr
    reported = small_disk.netagent("h1", "status")["warnings"]
    assert "disk-full" in [one["code"] for one in reported]
    assert small_disk.traces() == before
    assert small_disk.ask("c1", "c1").status == "NOERROR", "what was there goes on"
    host.must(["rm", "/var/lib/netagent/filler"])
    small_disk.wait(lambda: attempt(name).status == 0, 10.0, "it does not recover")
    assert small_disk.pings(name, "c1")


@pytest.fixture
def reached(lasting: Cluster) -> Iterator[Callable[..., Finished]]:
    """The API of h1 on its underlay address; asked from h2 with a token."""
    with lasting.reached_elsewhere("h1") as authority:
        h2 = lasting.lab.host("h2")
        h2.path("/run/h1.crt").write_bytes(authority.read_bytes())

        def ask(token: str, *words: str) -> Finished:
            h2.path("/run/token").write_text(token + "\n")
            there = ["--socket", "https://192.0.2.1:7958", "--ca-file", "/run/h1.crt"]
            return h2.run(["netagent", *there, "--token-file", "/run/token", *words])

        yield ask


def test_a_token_reaches_no_further_than_it_says(
    lasting: Cluster, bare: None, reached: Callable[..., Finished]
) -> None:
    """A pipeline's token is tried for all that it should not do, from another host; what it may do, it does."""
    app = lasting
    app.netagent("h1", "network", "create", "secret")
    app.attach("h1", "vault", "--network", "secret")
    ci = app.netagent("h1", "token", "create", "ci", "--attach", "--network", "app", "--ttl", "1h")["token"]
    look = app.netagent("h1", "token", "create", "look", "--read")["token"]
    boss = app.netagent("h1", "token", "create", "boss", "--admin")["token"]
    kept = app.lab.host("h1").path("/var/lib/netagent/tokens").read_text()
    assert not any(token.rpartition("_")[2] in kept for token in (ci, look, boss))

    def refused(token: str, *words: str) -> str:
        done = reached(token, *words)
        assert (done.status, done.stdout, done.stderr.count("\n")) == (4, "", 1), done
        return done.stderr

    def done(token: str, *words: str) -> str:
        finished = reached(token, *words)
        assert finished.status == 0, finished
        return finished.stdout

    try:
        assert "vault" in done(look, "endpoints")
        assert "c1" in (shown := done(ci, "endpoints"))
        assert "vault" not in shown
        assert done(ci, "network", "ls", "-o", "name") == "app\n"
        assert "does not reach a network 'secret'" in refused(ci, "endpoints", "--network", "secret")
        for words in (["status"], ["members"], ["inspect", "vault"], ["lookup", "vault.secret"], ["events"]):
            assert "reaches beyond the networks" in refused(ci, *words)
        assert "needs the role attach" in refused(look, "attach", "netns:bare", "--network", "app")
        assert "needs the role attach" in refused(look, "ping", "c1", "c2")
        assert "needs the role admin" in refused(ci, "network", "rm", "app", "--force")
        assert "--publish" in refused(ci, "attach", "netns:bare", "--network", "app", "-p", "8022:22")
        assert "exec:" in refused(ci, "attach", "docker:x", "--network", "app", "--check", "exec:/bin/sh")
        assert "does not reach 'pid:1'" in refused(ci, "attach", "pid:1", "--network", "app")
        assert "does not reach '/proc/1/ns/net'" in refused(
            ci, "attach", "/proc/1/ns/net", "--network", "app"
        )
        # A container of another network would be a way into it.
        beyond = "in a network that the token does not reach"
        assert beyond in refused(ci, "attach", "netns:vault", "--network", "app")
        assert beyond in refused(ci, "network", "connect", "app", "vault")
        assert beyond in refused(ci, "network", "connect", "app", "netns:vault")
        assert reached(ci, "detach", "vault").status == 1
        assert "works only by the agent's own socket" in refused(boss, "token", "create", "more", "--admin")
        assert [one["name"] for one in app.netagent("h1", "endpoints", "--network", "secret")] == ["vault"]

        assert '"name": "fresh"' in done(
            ci, "attach", "netns:bare", "--network", "app", "--name", "fresh", "--json"
        )
        (event,) = app.netagent("h1", "events", "--kind", "attach", "--since", "1m")[-1:]
        assert (event["author"]["kind"], event["author"]["name"]) == ("token", "ci")
        done(ci, "detach", "fresh")

        # A network under the same name is another network.
        old = app.netagent("h1", "token", "create", "old", "--read", "--network", "secret")["token"]
        assert "vault" in done(old, "endpoints")
        app.remove("vault")
        app.netagent("h1", "network", "rm", "secret")
        app.netagent("h1", "network", "create", "secret")
        app.attach("h1", "vault", "--network", "secret")
        assert reached(old, "endpoints").status == 2
        assert "does not reach" in refused(old, "endpoints", "--network", "secret")
        rows = {row["name"]: row for row in app.netagent("h1", "token", "ls")}
        assert rows["old"]["networks"][0]["exists"] is False

        app.netagent("h1", "token", "revoke", "look")
        assert "the token is not valid on this host" in refused(look, "endpoints")
        # In clear text not even a valid one.
        h2 = app.lab.host("h2")
        asking = ["curl", "-s", "-H", f"Authorization: Bearer {boss}", "http://192.0.2.1:7958/v1/status"]
        assert '"status": 403' in h2.must(asking)
        assert '"status": 401' in h2.must(["curl", "-sk", "https://192.0.2.1:7958/metrics"])
    finally:
        for row in app.netagent("h1", "token", "ls"):
            app.netagent("h1", "token", "revoke", row["name"])
        app.remove("vault")
        app.netagent("h1", "network", "rm", "secret")
