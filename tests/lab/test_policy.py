"""Networks in which only linked services may be reached, options that change, and the cluster as a file."""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "cluster-file.md"

ECHO = """
import contextlib, socket, threading
def tcp(sock):
    sock.listen()
    while True:
        far, _ = sock.accept()
        with far, contextlib.suppress(OSError):
            far.settimeout(1)
            far.sendall(far.recv(100))
def udp(sock):
    while True:
        sock.sendto(*sock.recvfrom(100))
for kind, serve in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        sock = socket.socket(family, kind)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, 7000))
        threading.Thread(target=serve, args=(sock,)).start()
"""
ASK = """
import socket, sys, time
started_at = time.monotonic()
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for family in (socket.AF_INET, socket.AF_INET6):
        said = "answer"
        try:
            where = socket.getaddrinfo(sys.argv[1], 7000, family, kind)[0][4]
            with socket.socket(family, kind) as sock:
                sock.settimeout(float(sys.argv[2]))
                sock.connect(where); sock.send(b"x"); sock.recv(1)
        except TimeoutError:
            said = "silence"
        except OSError:
            said = "refused"
        print(said)
print(time.monotonic() - started_at)
"""
PROMPT_S = 1.0


def asked(cluster: Cluster, client: str, name: str, patience_s: float = 3.0) -> tuple[set[str], float]:
    """What comes of asking by TCP and UDP, IPv4 and IPv6: the outcomes, and how long it took, in seconds."""
    *outcomes, took_s = cluster.inside(client, "python3", "-c", ASK, name, str(patience_s)).stdout.split()
    assert len(outcomes) == 4
    return set(outcomes), float(took_s)


def test_only_linked_services_are_reached_from_the_link_s_making_to_its_end(cluster: Cluster) -> None:
    cluster.netagent("h1", "network", "create", "app", "--policy", "links")
    serve = ["python3", "-c", ECHO]
    cluster.attach("h1", "db", command=serve)
    cluster.attach("h1", "near", "--link", "db", command=serve)
    cluster.attach("h2", "far", "--link", "db.app:base", command=serve)
    cluster.attach("h2", "other", command=serve)
    for client, name in (("near", "db"), ("far", "base"), ("far", "db")):
        cluster.wait(
            lambda: asked(cluster, client, name, 0.5)[0] == {"answer"},
            10.0,
            f"{client} does not reach {name}",
        )
    # One way; and a name is known to all, also to those who are refused at once.
    for client, name in (("db", "near"), ("db", "far"), ("other", "db"), ("other", "far"), ("far", "near")):
        assert cluster.answers(client, name), name
        outcomes, took_s = asked(cluster, client, name)
        assert outcomes == {"refused"}, (client, name)
        assert took_s < PROMPT_S

    why = {
        one["thing"]: one["reason"]
        for one in cluster.netagent("h2", "inspect", "db", "--why")["why"]["objects"]
        if one["kind"] == "policy"
    }
    assert "db may be reached by far, near" in why
    assert "only linked services may be reached" in why["db may be reached by far, near"]
    assert "db may reach no endpoint" in why

    cluster.netagent("h2", "link", "other", "db")
    cluster.wait(lambda: asked(cluster, "other", "db", 0.2)[0] == {"answer"}, 1.0, "not linked")
    cluster.netagent("h2", "unlink", "other", "db")
    cluster.wait(lambda: asked(cluster, "other", "db", 0.2)[0] == {"refused"}, 1.0, "not unlinked")
    assert asked(cluster, "far", "db")[0] == {"answer"}

    # It holds while the agents are away, and what they find then is what they left.
    for host in ("h1", "h2"):
        with cluster.agent_of(host) as agent:
            agent.kill_agent()
    assert asked(cluster, "far", "db")[0] == {"answer"}
    assert asked(cluster, "other", "db")[0] == {"refused"}
    for host in ("h1", "h2"):
        with cluster.agent_of(host) as agent:
            agent.start_agent()
    assert asked(cluster, "far", "db")[0] == {"answer"}
    assert asked(cluster, "other", "db")[0] == {"refused"}


def policies(cluster: Cluster) -> set[str]:
    """The policy of the network `living` as each host knows it."""
    return {cluster.netagent(host, "network", "inspect", "living")["policy"] for host in cluster.hosts}


def test_the_policy_of_a_living_network_is_set_on_any_host(lasting: Cluster) -> None:
    cluster = lasting
    cluster.netagent("h1", "network", "create", "living")
    serve = ["python3", "-c", ECHO]
    for host, name, options in (("h1", "lb", ()), ("h2", "linked", ("--link", "lb")), ("h3", "stray", ())):
        cluster.attach(host, name, "--network", "living", *options, command=serve)
    for client in ("linked", "stray"):
        cluster.wait(lambda: asked(cluster, client, "lb", 0.5)[0] == {"answer"}, 30.0, f"{client} is cut off")

    # First it is only counted what links would refuse, on the host of the client and on that of the server.
    cluster.netagent("h2", "network", "set", "living", "--policy", "audit")
    before = {host: cluster.netagent(host, "status")["audited"] for host in ("h1", "h3")}
    assert asked(cluster, "stray", "lb")[0] == {"answer"}
    assert asked(cluster, "linked", "lb")[0] == {"answer"}
    for host, count in before.items():
        assert cluster.netagent(host, "status")["audited"] > count, host
    assert not cluster.netagent("h2", "status")["audited"], "only what no link allows"
    why = cluster.netagent("h1", "inspect", "lb", "--why")["why"]["objects"]
    assert any("counts what no link allows" in one["reason"] for one in why)

    # Not on the host that made it; the answer comes once this host follows.
    done = cluster.netagent("h3", "network", "set", "living", "--policy", "links", "--answer", "nearest")
    assert [(one["option"], one["value"], one["former"]) for one in done["changed"]] == [
        ("policy", "links", "audit"),
        ("answer_order", "nearest", "spread"),
    ]
    assert done["unheard"] == []
    assert asked(cluster, "stray", "lb")[0] == {"refused"}
    assert asked(cluster, "linked", "lb")[0] == {"answer"}
    assert cluster.netagent("h1", "network", "set", "living", "--policy", "links")["changed"] == []
    (change, _) = cluster.netagent("h2", "network", "inspect", "living")["changes"]
    assert (change["value"], change["by"], change["host"]) == ("links", "root", "h3")

    # Two sides of a cut: h2 does not hear h1, and each sets it.
    for other in ("h2", "h3"):
        cluster.lab.cut("h1", other)
    cluster.netagent("h1", "network", "set", "living", "--policy", "open")
    cluster.netagent("h2", "network", "set", "living", "--answer", "zone")
    assert asked(cluster, "stray", "linked")[0] == {"refused"}, "there it is links"
    cluster.lab.heal()
    cluster.wait(lambda: policies(cluster) == {"open"}, 30.0, "the hosts do not agree")
    cluster.wait(lambda: asked(cluster, "stray", "lb", 0.5)[0] == {"answer"}, 30.0, "not open again")
    found = cluster.netagent("h1", "network", "inspect", "living")
    assert found["answer_order"] == "zone", "each side changed another option, and both count"
    cluster.remove("lb", "linked", "stray")


OUTSIDE = "192.0.2.254"
"""The fabric of the lab itself."""


def own_routes(cluster: Cluster, container: str) -> set[str]:
    """Where the container's IPv4 routes of ours lead."""
    listed = cluster.inside(container, "ip", "route", "show", "proto", "78").stdout
    return {line.split()[0] for line in listed.splitlines()}


def host_addresses(cluster: Cluster, host: str, subnet: str) -> list[str]:
    """The host's IPv4 addresses on its bridge in a network, the gateway included, with prefix lengths."""
    listed = cluster.lab.host(host).must(["ip", "-4", "-o", "address"])
    found = [line.split()[3] for line in listed.splitlines() if line.split()[1].startswith("na-")]
    within = ip_network(subnet)
    return sorted(one for one in found if ip_interface(one).ip in within)


def test_internal_multicast_and_host_access_of_a_living_network_are_set(lasting: Cluster) -> None:
    cluster = lasting
    subnet = cluster.netagent("h1", "network", "create", "turning")["subnets"][0]
    cluster.netagent("h1", "network", "create", "second")
    for host, name in (("h1", "east"), ("h2", "west")):
        cluster.attach(host, name, "--network", "turning")
    cluster.netagent("h1", "attach", "netns:east", "--network", "second")
    west = cluster.endpoint("west")["addresses"][0]
    gateway = f"{next(ip_network(subnet).hosts())}/{ip_network(subnet).prefixlen}"
    for number in (1, 2):  # the lab gives its hosts no way beyond the fabric
        cluster.lab.host(f"h{number}").must(["ip", "route", "replace", "default", "via", OUTSIDE])
    cluster.await_pings("west", OUTSIDE, 30.0)
    cluster.await_pings("east", west, 30.0)
    plain, loud = {subnet, "default"}, {"224.0.0.0/4", "255.255.255.255"}
    assert own_routes(cluster, "west") == plain
    assert host_addresses(cluster, "h2", subnet) == [gateway]

    # h2 has no agent while its network changes on another host: it learns of it later.
    with cluster.agent_of("h2") as agent:
        agent.kill_agent()
    options = ("--internal", "yes", "--multicast", "yes", "--host-access", "yes")
    done = cluster.netagent("h3", "network", "set", "turning", *options)
    assert [(one["option"], one["value"], one["former"]) for one in done["changed"]] == [
        (option, "yes", "no") for option in ("internal", "multicast", "host_access")
    ]
    cluster.wait(
        lambda: cluster.inside("east", "ip", "route", "show", "default").stdout.count("eth1") == 1,
        30.0,
        "the container's other network does not give it the default route",
    )
    cluster.await_pings("east", west, 30.0)
    assert own_routes(cluster, "west") == plain, "the last state stands"
    with cluster.agent_of("h2") as agent:
        agent.start_agent()
    cluster.wait(lambda: own_routes(cluster, "west") == loud | {subnet}, 30.0, "west does not follow")
    assert not cluster.pings("west", OUTSIDE)
    for host in cluster.hosts:
        cluster.wait(
            lambda: (
                len(host_addresses(cluster, host, subnet)) == 1
                and host_addresses(cluster, host, subnet) != [gateway]
            ),
            30.0,
            f"{host} has no address in the network",
        )
        ping = ["ping", "-c", "1", "-W", "1", west]
        cluster.wait(
            lambda: cluster.lab.host(host).run(ping).status == 0,
            30.0,
            f"{host} does not reach west",
        )
    refused = cluster.try_netagent("h1", "publish", "--service", "west", "8080:80", "--network", "turning")
    assert refused.status == 4, refused
    assert "internal" in refused.stderr

    # With a gateway the bridge has both addresses, the host's own with the subnet.
    cluster.netagent("h1", "network", "set", "turning", "--internal", "no")
    cluster.wait(lambda: len(host_addresses(cluster, "h2", subnet)) == 2, 30.0, "h2 has not both addresses")
    cluster.await_pings("west", OUTSIDE, 30.0)
    cluster.netagent("h2", "network", "set", "turning", "--host-access", "no", "--multicast", "no")
    cluster.wait(lambda: own_routes(cluster, "west") == plain, 30.0, "west still has routes for multicast")
    for host in ("h1", "h2"):
        cluster.wait(
            lambda: host_addresses(cluster, host, subnet) == [gateway],
            30.0,
            f"{host} still has an address in the network",
        )
    cluster.wait(lambda: not host_addresses(cluster, "h3", subnet), 30.0, "h3 is still in the network")
    cluster.wait(
        lambda: "eth0" in cluster.inside("east", "ip", "route", "show", "default").stdout,
        30.0,
        "the first network does not give the default route",
    )
    cluster.await_pings("east", OUTSIDE, 30.0)
    assert cluster.lab.host("h2").run(["ping", "-c", "1", "-W", "1", west]).status != 0
    cluster.remove("east", "west")


def test_the_cluster_is_made_as_a_file_says(lasting: Cluster) -> None:
    """The file of the guide, applied on one host, read on another, changed on a third."""
    cluster = lasting
    (text,) = re.findall(r"^```toml\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    def apply(host: str, text: str, *options: str) -> dict[str, Any]:
        found: dict[str, Any] = cluster.netagent(host, "apply", "-", *options, stdin=text)
        return found

    done = apply("h1", text, "--yes")
    assert [(one["sign"], one["thing"]) for one in done["changes"]] == [
        ("+", "network back"),  # the one with subnets of its own
        ("+", "network shop"),
        ("+", "service pg of network shop"),
        ("+", "service mail of network shop"),
        ("+", "address of service web of network shop"),
        ("+", "name db.shop"),
        ("+", "name printer.shop"),
        ("+", "port 8088:8080/tcp of all hosts"),
    ]
    assert "network app" in done["unmentioned"]
    cluster.attach("h2", "shopper", "--network", "shop")
    cluster.wait(lambda: cluster.answers("shopper", "printer") == ["192.0.2.77"], 30.0, "no printer")
    assert cluster.netagent("h2", "network", "inspect", "shop")["policy"] == "audit"

    # All hosts have it, so it is the same everywhere, and what one exports changes nothing on another.
    cluster.wait(lambda: not apply("h3", text, "--yes")["changes"], 30.0, "h3 differs")
    exported = cluster.try_netagent("h3", "export")
    assert exported.status == 0
    assert not apply("h2", exported.stdout, "--yes")["changes"]
    assert not apply("h2", exported.stdout, "--yes")["unmentioned"]

    # Nothing is done of a file that a later step would refuse.
    overlapping = '[network.made-first]\n[network.overlaps]\nsubnets = ["192.0.2.0/24"]\n'
    overlapping += '[[name]]\nname = "x.nowhere"\ncname = "y"\n'
    wrong = cluster.try_netagent("h2", "apply", "-", "--yes", stdin=overlapping)
    assert wrong.status == 4
    assert (
        "standard input: [network.overlaps] subnets: the subnet 192.0.2.0/24 overlaps the route"
        in wrong.stderr
    )
    assert "standard input: [[name]] 1 (x.nowhere) name: there is no network 'nowhere'" in wrong.stderr
    assert "made-first" not in cluster.try_netagent("h2", "network", "ls", "-o", "name").stdout

    other = text.replace('policy = "audit"', 'policy = "links"').replace("192.0.2.77", "192.0.2.78")
    shown = cluster.try_netagent("h1", "apply", "-", "--dry-run", stdin=other)
    assert shown.status == 1
    assert "~ network shop: policy links (now audit)\n~ name printer.shop: 192.0.2.78\n" in shown.stdout
    refused = cluster.try_netagent("h2", "apply", "-", "--yes", stdin=other)
    assert (refused.status, "type this command on h1" in refused.stderr) == (4, True)
    assert cluster.netagent("h1", "network", "inspect", "shop")["policy"] == "audit", "nothing was done"
    assert len(apply("h1", other, "--yes")["changes"]) == 2
    cluster.wait(lambda: cluster.answers("shopper", "printer") == ["192.0.2.78"], 30.0, "the old printer")
    assert cluster.netagent("h2", "network", "inspect", "shop")["policy"] == "links"
    cluster.remove("shopper")


def test_tokens_come_from_a_file_and_never_with_their_secrets(lasting: Cluster, tmp_path: Path) -> None:
    """Made once, usable, refused when they differ, and not for those who come by the read-only socket."""
    cluster = lasting
    text = '[[token]]\nname = "desk"\nrole = "read"\nttl_s = 600\n'
    refused = cluster.try_netagent("h2", "apply", "-", "--yes", stdin=text)
    assert (refused.status, "--token-dir" in refused.stderr) == (2, True)
    made = cluster.try_netagent("h2", "apply", "-", "--yes", "--token-dir", str(tmp_path), stdin=text)
    assert made.status == 0, made.stderr
    secret = (tmp_path / "desk.token").read_text().strip()
    assert secret not in made.stdout
    asked = ["curl", "-s", "-H", f"Authorization: Bearer {secret}", "http://127.0.0.1:7958/v1/status"]
    assert '"cluster"' in cluster.lab.host("h2").run(asked).stdout
    exported = cluster.try_netagent("h2", "export", "--tokens").stdout
    assert text in exported
    assert secret.rpartition("_")[2] not in exported
    assert cluster.try_netagent("h2", "apply", "-", "--yes", stdin=exported).status == 0
    other = cluster.try_netagent("h2", "apply", "-", "--yes", stdin=text.replace("read", "admin"))
    assert (other.status, "has the role read, and a token does not change" in other.stderr) == (4, True)
    by_token = cluster.lab.host("h2").run([*asked[:-1], "http://127.0.0.1:7958/v1/export?tokens=true"]).stdout
    assert "works only by the agent's own socket" in by_token
    assert cluster.try_netagent("h2", "token", "revoke", "desk").status == 0
