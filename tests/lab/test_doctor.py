"""`netagent doctor` and `inspect --why` on a host that was damaged by hand: they name exactly that, with its fix."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab.harness import Cluster

from netagent.model.ids import bridge_name, vxlan_name

pytestmark = pytest.mark.lab


def doctor(cluster: Cluster, host: str, status: int) -> dict[str, Any]:
    done = cluster.try_netagent(host, "doctor", "--json")
    assert done.status == status, (done.status, done.stdout, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def findings(answer: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Fix by (check, thing)."""
    checks = [*answer["host"], *answer["intent"]]
    return {(check["name"], one["thing"]): one["fix"] for check in checks for one in check["findings"]}


def test_doctor_names_what_was_damaged_and_its_fixes_mend_it(app: Cluster) -> None:
    network = app.netagent("h1", "network", "inspect", "app")
    bridge, tunnel = bridge_name(network["vni"]), vxlan_name(network["vni"])
    far = app.netagent("h1", "endpoints", "--host", "h2")[0]
    h1, address, mac = app.lab.host("h1"), far["addresses"][0], far["mac"]
    app.wait(lambda: app.try_netagent("h1", "doctor").status == 0, 10.0, "doctor finds something")
    assert doctor(app, "h1", 0)["looked_at"]["containers"] == 1
    with app.agent_of("h1") as agent:
        agent.stop_agent()
    for command in (
        f"ip neigh del {address} dev {bridge}",
        f"bridge fdb replace {mac} dev {tunnel} dst 192.0.2.77 self permanent",
        f"bridge fdb del {mac} dev {tunnel} master",
        f"bridge link set dev {tunnel} neigh_suppress off",
        f"ip link set {tunnel} down",
        "ip netns exec c1 ip link set eth0 down",
        "ip route add 10.160.0.0/12 dev eth0",
    ):
        h1.must(command.split())
    answer = doctor(app, "h1", 3)
    assert answer["agent"] == "silent"
    found = findings(answer)
    assert set(found) == {
        ("routes", "10.160.0.0/12"),
        ("neighbours", f"neighbour {address} on {bridge}"),
        ("tunnel-entries", f"tunnel entry {mac} on {tunnel}"),
        ("bridge-entries", f"bridge entry {mac} on {bridge}"),
        ("bridge-ports", f"device {tunnel}"),
        ("devices", f"device {tunnel}"),
        *((("containers", thing)) for _, thing in found if " in netns:c1" in thing),
    }
    assert ("containers", "eth0 in netns:c1") in found
    for fix in found.values():
        for command in fix.split(", or ")[0].split("; "):
            h1.run(command.split())  # what another has mended already is refused
    # The kernel brings ports up in its own time.
    app.wait(lambda: findings(doctor(app, "h1", 3)) == {}, 5.0, "a fix is none")
    with app.agent_of("h1") as agent:
        agent.start_agent()
    app.wait(lambda: app.try_netagent("h1", "doctor").status == 0, 10.0, "doctor finds something")
    assert app.pings("c1", address)


def warnings(app: Cluster, host: str) -> dict[str, tuple[str, str]]:
    """What `status` warns of: code -> message and cure."""
    found = app.netagent(host, "status")["warnings"]
    return {one["code"]: (one["message"], one["cure"]) for one in found}


def test_scenario_40_a_foreign_device_or_firewall_is_named_and_all_works_when_it_goes(app: Cluster) -> None:
    """A foreign device with our VNI, and foreign drops of what bridges pass and of what the host routes."""
    network = app.netagent("h1", "network", "inspect", "app")
    tunnel = vxlan_name(network["vni"])
    far = app.netagent("h1", "endpoints", "--host", "h2")[0]
    h1 = app.lab.host("h1")
    with app.agent_of("h1") as agent:
        agent.stop_agent()
    h1.must(["ip", "link", "del", tunnel])
    h1.must(f"ip link add theirs type vxlan id {network['vni']} dstport 4799 nolearning".split())
    h1.must(
        [
            "nft",
            "add table bridge t; add chain bridge t f { type filter hook forward priority 0; policy drop; }",
        ]
    )
    with app.agent_of("h1") as agent:
        agent.start_agent()

    def names_theirs() -> bool:
        answer = doctor(app, "h1", 1)
        messages = [one["message"] for check in answer["intent"] for one in check["findings"]]
        return any(f"device {tunnel} is missing" in text and "theirs" in text for text in messages)

    app.wait(names_theirs, 5.0, "the device in the way is not named once the kernel has refused ours")
    answer = doctor(app, "h1", 1)
    failed = {one["name"] for one in [*answer["host"], *answer["intent"]] if one["verdict"] == "failed"}
    assert {"tunnels", "forward-rules", "devices"} <= failed
    why = json.loads(app.try_netagent("h1", "inspect", far["id"], "--why", "--json").stdout)["why"]
    states = {one["kind"]: one["state"] for one in why["objects"]}
    assert states["tunnel entry"] == "missing"
    assert states["name"] == "present"
    assert why["records"][0]["host"] == "h2"
    assert app.try_netagent("h1", "inspect", far["id"], "--why").status == 1
    h1.must(["ip", "link", "del", "theirs"])
    h1.must(["nft", "delete", "table", "bridge", "t"])
    app.wait(lambda: app.try_netagent("h1", "doctor").status == 0, 10.0, "doctor finds something")
    assert app.try_netagent("h1", "inspect", far["id"], "--why").status == 0
    assert app.pings("c1", far["addresses"][0])

    # What Docker does where it finds bridge netfilter on, without the chain in which it lets others have a say.
    h1.must(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])
    h1.must(["iptables", "-P", "FORWARD", "DROP"])
    app.wait(lambda: app.pings("c1", far["addresses"][0]), 2.0, "what bridges pass is not kept from it")
    message, _cure = warnings(app, "h1")["foreign-firewall"]
    assert "drops packets that containers send out of this host by its policy" in message
    # As on a kernel where nothing can be kept from it.
    h1.must(["sysctl", "-qw", "net.bridge.bridge-nf-filter-vlan-tagged=1"])
    app.wait(lambda: not app.pings("c1", far["addresses"][0]), 5.0, "packets pass the host's rules")
    # Twice a second the agent looks whether bridge netfilter can be kept away.
    dropped = "chain FORWARD of table ip filter drops packets on netagent's bridges by its policy"
    app.wait(lambda: dropped in warnings(app, "h1")["foreign-firewall"][0], 5.0, "it is not reported")
    message, cure = warnings(app, "h1")["foreign-firewall"]
    assert "bridge-nf-call-iptables" in message
    found = findings(doctor(app, "h1", 1))
    assert ("forward-rules", "chain FORWARD of table ip filter") in found
    assert ("kernel-settings", "net.bridge.bridge-nf-filter-vlan-tagged") in found
    lost = json.loads(app.try_netagent("h1", "ping", "c1", far["addresses"][0], "--json").stdout)
    assert lost["lost_at"] == "policy"
    assert message in lost["says"], "not the other end's fault"
    assert [one["fix"] for one in lost["trace"] if not one["ok"]] == [cure]
    for words in cure.split(", or ")[1:]:
        h1.must(words.split())
    assert app.pings("c1", far["addresses"][0]), "the cure is one"
    message, cure = warnings(app, "h1")["foreign-firewall"]
    assert "drops packets that containers send out of this host by its policy" in message
    for command in cure.split("; "):
        h1.must(["sh", "-c", command])
    assert "foreign-firewall" not in warnings(app, "h1"), "that one as well"
    h1.must(["iptables", "-F", "FORWARD"])
    h1.must(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])
    assert not app.pings("c1", far["addresses"][0])
    before = app.devices("h1")
    h1.must(["iptables", "-P", "FORWARD", "ACCEPT"])
    assert app.pings("c1", far["addresses"][0]), "at once, without any action"
    assert "foreign-firewall" not in warnings(app, "h1")
    assert app.devices("h1") == before, "nothing was made anew for it"
    h1.must(["sysctl", "-qw", "net.bridge.bridge-nf-filter-vlan-tagged=0"])
