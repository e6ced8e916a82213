"""The CNI executable on two real hosts: driven by hand, by libcni, and in chains with the reference plug-ins."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from go_program import COMPILE_S, compiled
from netlab.lab import Lab
from netlab.process import wait_until
from netlab.programs import Finished
from netlab.topology import of_hosts
from runtimes.harness import SPREAD_S, wait_promised

from netagent.integrations import shim

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.timeout(COMPILE_S + 300)]

REFERENCE_PLUGINS = Path("/usr/lib/cni")
PUBLISHED = 'portMappings=[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]'
TUNED = [
    {"type": "netagent", "network": "app", "service": "shop"},
    {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_ignore": "1"}},
]
BEHIND_BRIDGE = [
    {
        "type": "bridge",
        "bridge": "cbr0",
        "isGateway": True,
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "198.51.100.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    },
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "netagent", "network": "app", "ifname": "net1"},
]
PUBLISHING = [{"type": "netagent", "network": "app", "capabilities": {"portMappings": True}}]
WHOAMI = str(Path(__file__).parents[1] / "lab" / "whoami.py")
H1, H2 = "192.0.2.1", "192.0.2.2"


class CniHosts:
    """Two hosts with the network `app`, and the executable as a runtime finds it: as `netagent` in a folder."""

    def __init__(self, lab: Lab, folder: Path, client: Path) -> None:
        self.lab, self.folder, self._client = lab, folder, client
        self._made: list[tuple[str, str]] = []
        self.plugins = folder / "plugins"
        self.plugins.mkdir()
        shutil.copy(shim.__file__, self.plugins / "netagent")

    def netns(self, host: str, name: str) -> str:
        self.lab.host(host).must(["ip", "netns", "add", name])
        self._made.append((host, name))
        return f"/run/netns/{name}"

    def clear(self) -> None:
        """After a test, also one that failed in the middle."""
        nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
        for host, name in self._made:
            self.lab.host(host).run(["ip", "netns", "del", name])
        self._made.clear()
        for host in ("h1", "h2"):
            for network in ("app", "app-net"):
                assert self.call(host, "GC", **nothing, name=network) is None

    def wait_endpoints(self, host: str, names: list[str]) -> None:
        wait_until(
            lambda: self.endpoints(host) == names, SPREAD_S, lambda: f"{host} shows {self.endpoints(host)}"
        )

    def serve(self, host: str, name: str) -> None:
        """A web server at port 80 of a container, until the lab ends."""
        log = self.folder / f"{name}.log"
        self.lab.host(host).start(["ip", "netns", "exec", name, "python3", WHOAMI, "80"], log)

    def inside(self, host: str, name: str, *argv: str) -> Finished:
        return self.lab.host(host).run(["ip", "netns", "exec", name, *argv])

    def call(
        self, host: str, verb: str, container: str = "", netns: str = "", args: str = "", **fields: Any
    ) -> Any:
        """By hand: what comes out, decoded; None for nothing. An error's answer has a code."""
        configuration = {"cniVersion": "1.1.0", "name": "app", "type": "netagent", **fields}
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": args,
            "CNI_PATH": str(self.plugins),
        }
        words = [
            "env",
            *(f"{key}={value}" for key, value in variables.items()),
            str(self.plugins / "netagent"),
        ]
        done = self.lab.host(host).run(words, stdin=json.dumps(configuration))
        assert done.stderr == ""
        answer = json.loads(done.stdout) if done.stdout else None
        assert (done.status == 0) == (answer is None or "code" not in answer), answer
        return answer

    def client(self, host: str, verb: str, plugins: list[Any], name: str, netns: str, *args: str) -> Finished:
        """By libcni."""
        path = self.folder / f"{verb}-{name}.conflist"
        path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "app-net", "plugins": plugins}))
        words = [
            str(self._client),
            verb,
            str(path),
            f"{self.plugins}:{REFERENCE_PLUGINS}",
            "/run/cni-cache",
            name,
        ]
        return self.lab.host(host).run([*words, netns, *args])

    def addresses(self, host: str, name: str, asked: str) -> set[str]:
        question = ("+short", "+time=1", "+tries=1", asked, "A", asked, "AAAA")
        done = self.inside(host, name, "dig", "@127.0.0.11", *question)
        return set(done.stdout.split()) if done.status == 0 else set()

    def endpoints(self, host: str) -> list[str]:
        answer = json.loads(self.lab.host(host).must(["netagent", "endpoints", "--local", "--json"]))
        return [one["name"] for one in answer["items"]]


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniHosts]:
    client = compiled(Path(__file__).with_name("cni_client.go"), tmp_path_factory.mktemp("go"))
    lab = Lab(Path(f"/run/natcni-test{os.getpid()}"))
    try:
        lab.up(of_hosts(2))
        lab.host("h1").must(["netagent", "network", "create", "app"])
        yield CniHosts(lab, tmp_path_factory.mktemp("cni"), client)
    finally:
        lab.down()


@pytest.fixture
def hosts(two_hosts: CniHosts) -> Iterator[CniHosts]:
    yield two_hosts
    two_hosts.clear()


def web_server_sees(hosts: CniHosts, host: str, address: str) -> str:
    """As whom the web server behind port 8080 sees a host; "" without an answer."""
    command = ["curl", "-s", "--max-time", "2", f"http://{address}:8080/"]
    return hosts.lab.host(host).run(command).stdout


def addresses_of(result: dict[str, Any], ifname: str = "eth0") -> set[str]:
    (index,) = (number for number, one in enumerate(result["interfaces"]) if one["name"] == ifname)
    return {one["address"].partition("/")[0] for one in result["ips"] if one["interface"] == index}


def test_by_hand_two_containers_on_two_hosts_find_each_other(hosts: CniHosts) -> None:
    assert hosts.call("h1", "STATUS") is None
    web = hosts.call("h1", "ADD", "web", hosts.netns("h1", "web"), expose=["http=80/tcp"])
    pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=db-0"
    db = hosts.call("h2", "ADD", "3f" * 32, hosts.netns("h2", "db"), args=pod, cniVersion="0.4.0")
    wait_until(
        lambda: hosts.addresses("h2", "db", "web.app.mesh.internal") == addresses_of(web),
        SPREAD_S,
        "h2 lacks the name",
    )
    question = "db-0-prod.app.mesh.internal"
    wait_until(
        lambda: hosts.addresses("h1", "web", question) == addresses_of(db), SPREAD_S, "h1 lacks the name"
    )
    for address in addresses_of(db):
        assert hosts.inside("h1", "web", "ping", "-c1", "-W3", address).status == 0
    assert hosts.call("h1", "CHECK", "web", "/run/netns/web", prevResult=web) is None
    assert hosts.call("h2", "CHECK", "3f" * 32, "/run/netns/db", prevResult=db, cniVersion="0.4.0") is None

    def is_missed() -> bool:
        hosts.lab.host("h1").must(["ip", "-n", "web", "link", "set", "eth0", "down"])
        answer = hosts.call("h1", "CHECK", "web", "/run/netns/web", prevResult=web)
        return answer is not None and (answer["code"], "eth0" in answer["msg"]) == (100, True)

    # Again and again: the agent puts it up after 50 ms, and on a busy host the executable takes as long to start.
    wait_until(is_missed, SPREAD_S, "CHECK finds nothing missing")

    assert hosts.call("h1", "DEL", "web", "") is None
    assert hosts.addresses("h2", "db", "web.app.mesh.internal") == set(), "names go before DEL returns"
    assert hosts.call("h1", "DEL", "web", "/run/netns/web") is None
    assert hosts.inside("h1", "web", "ip", "link", "show", "eth0").status != 0
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    assert hosts.call("h2", "GC", **nothing) is None
    hosts.wait_endpoints("h1", [])


def test_a_forgotten_container_is_withdrawn_and_its_late_del_is_fine(hosts: CniHosts) -> None:
    hosts.call("h1", "ADD", "gone", hosts.netns("h1", "gone"))
    hosts.wait_endpoints("h2", ["gone"])
    hosts.lab.host("h1").must(["ip", "netns", "del", "gone"])
    wait_promised(lambda: hosts.endpoints("h2") == [], "h2 still has it", time.monotonic())
    assert hosts.call("h1", "DEL", "gone", "/run/netns/gone") is None


def test_the_agent_may_be_away_between_add_and_del(hosts: CniHosts) -> None:
    result = hosts.call("h1", "ADD", "away", hosts.netns("h1", "away"))
    with hosts.lab.changing("h1") as changing:
        changing.stop_agent()
    answer = hosts.call("h1", "DEL", "away", "/run/netns/away")
    assert (answer["code"], "no agent runs on this host" in answer["msg"]) == (11, True)
    assert hosts.call("h1", "STATUS")["code"] == 50
    assert hosts.call("h1", "VERSION")["supportedVersions"][-1] == "1.1.0"
    with hosts.lab.changing("h1") as changing:
        changing.start_agent()
    assert hosts.call("h1", "CHECK", "away", "/run/netns/away", prevResult=result) is None
    assert hosts.call("h1", "ADD", "away", "/run/netns/away") == result
    assert hosts.call("h1", "DEL", "away", "/run/netns/away") is None
    assert hosts.endpoints("h1") == []


def test_wrong_calls_are_answered_in_the_protocols_own_way(hosts: CniHosts) -> None:
    assert hosts.call("h1", "ADD", "x", "/run/netns/none")["code"] == 3
    assert hosts.call("h1", "ADD", "x", "/proc/1/ns/net")["code"] == 7
    assert hosts.call("h1", "ADD", "x", "/run/netns/none", cniVersion="9.9.9")["code"] == 1
    assert hosts.call("h1", "ADD", "x", "/run/netns/none", netwrok="app")["code"] == 2
    assert hosts.call("h1", "ADD", "", "/run/netns/none")["code"] == 4
    assert hosts.call("h1", "ADD", "x", hosts.netns("h1", "x"), network="none")["code"] == 11
    assert hosts.call("h1", "VERSION")["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert hosts.endpoints("h1") == []


def test_libcni_drives_a_chain_with_tuning(hosts: CniHosts) -> None:
    netns = hosts.netns("h1", "tuned")
    assert hosts.client("h1", "validate", TUNED, "tuned", netns).status == 0
    added = hosts.client("h1", "add", TUNED, "tuned", netns, "IgnoreUnknown=1", "K8S_POD_NAME=shop-1")
    assert added.status == 0, added.stderr
    addresses = addresses_of(json.loads(added.stdout))
    assert hosts.addresses("h1", "tuned", "shop.app.mesh.internal") == addresses
    assert hosts.inside("h1", "tuned", "sysctl", "-n", "net.ipv4.conf.eth0.arp_ignore").stdout.strip() == "1"
    assert hosts.client("h1", "check", TUNED, "tuned", netns).status == 0
    for _ in range(2):
        done = hosts.client("h1", "del", TUNED, "tuned", netns)
        assert done.status == 0, done.stderr
    assert hosts.endpoints("h1") == []


def test_behind_bridge_and_portmap_a_container_is_in_both_networks(hosts: CniHosts) -> None:
    netns = hosts.netns("h2", "both")
    added = hosts.client("h2", "add", BEHIND_BRIDGE, "both", netns, PUBLISHED)
    assert added.status == 0, added.stderr
    result = json.loads(added.stdout)
    assert addresses_of(result) == {"198.51.100.2"}
    assert hosts.addresses("h2", "both", "both.app.mesh.internal") == addresses_of(result, "net1")
    assert hosts.inside("h2", "both", "ping", "-c1", "-W3", "192.0.2.1").status == 0, (
        "the way out is bridge's"
    )
    done = hosts.client("h2", "del", BEHIND_BRIDGE, "both", netns, PUBLISHED)
    assert done.status == 0, done.stderr
    assert hosts.endpoints("h2") == []


def test_without_portmap_our_own_network_publishes_a_port(hosts: CniHosts) -> None:
    netns = hosts.netns("h1", "shown")
    added = hosts.client("h1", "add", PUBLISHING, "shown", netns, PUBLISHED)
    assert added.status == 0, added.stderr
    hosts.serve("h1", "shown")
    wait_until(lambda: web_server_sees(hosts, "h2", H1) == H2, SPREAD_S, "no answer for the host")
    network = json.loads(hosts.lab.host("h1").must(["netagent", "network", "inspect", "app", "--json"]))
    assert web_server_sees(hosts, "h1", "127.0.0.1") == network["gateways"][0]
    assert hosts.client("h1", "check", PUBLISHING, "shown", netns, PUBLISHED).status == 0

    late = hosts.client("h1", "add", PUBLISHING, "late", hosts.netns("h1", "late"), PUBLISHED)
    assert late.status != 0
    assert "published by shown" in late.stderr
    assert hosts.endpoints("h1") == ["shown"], "nothing is left of an ADD that was refused"

    done = hosts.client("h1", "del", PUBLISHING, "shown", netns, PUBLISHED)
    assert done.status == 0, done.stderr
    assert web_server_sees(hosts, "h2", H1) == ""


def test_the_programs_of_a_pod_are_led_from_a_services_address_to_its_replicas(hosts: CniHosts) -> None:
    hosts.netns("h2", "web")
    attach = ("netagent", "attach", "netns:web", "--network", "app", "--label", "netagent.address=true")
    hosts.lab.host("h2").must(attach)
    hosts.serve("h2", "web")
    pod = hosts.netns("h1", "pod")
    added = hosts.call("h1", "ADD", "p1", pod, "K8S_POD_NAME=pod")
    own = {one["address"].partition("/")[0] for one in added["ips"]}
    (replica,) = json.loads(
        hosts.lab.host("h2").must(["netagent", "endpoints", "--local", "-o", "json", "--host", "h2"])
    )["items"]

    def found() -> list[str]:
        return sorted(hosts.addresses("h1", "pod", "web.app.mesh.internal"))

    wait_until(
        lambda: len(found()) == 2 and not {*found()} & {*replica["addresses"]},
        SPREAD_S,
        lambda: f"the pod is answered {found()}",
    )
    for address in found():
        url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
        asked = hosts.inside("h1", "pod", "curl", "-s", "-m", "5", "-w", " %{remote_ip}", url)
        seen_as, remote = asked.stdout.split()
        assert remote == address
        assert seen_as in own
    hosts.call("h1", "DEL", "p1", pod)
    hosts.lab.host("h2").must(["netagent", "detach", "web"])
