"""What must hold in a cluster at rest, whatever happened before: registry, kernel, names and journal say the same.

Each host is photographed with tools that know nothing of netagent (ip, bridge, sqlite, /proc, a DNS client) beside
its own word, and the pictures are compared. The truth is which endpoints the hosts themselves call theirs; who knows
more (a container was removed, an attach succeeded) says so in an `Expectation`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.harness import Cluster

from netagent.model.ids import EndpointId, bridge_name, veth_name, vxlan_name

Endpoint = dict[str, Any]
QUESTIONS = str(Path(__file__).with_name("questions.py"))
DOMAIN = "mesh.internal"
RESOLVER_SOCKET = "0B00007F:EE7D"
"""127.0.0.11 port 61053, to which port 53 is led, as /proc/net writes it."""
FEED_SOCKET = "0B00007F:1F11"
"""127.0.0.11 port 7953."""
UNBOUND_SOCKETS = {"agent": 1, "resolver": 0}
"""Those that are never bound are in no list of the kernel's: the agent asks about network cards by one."""
START_S = 10.0
"""A resolver process is ready 0.3 s after its start, on a busy machine later."""
MAX_FDS_BESIDE_SANDBOXES = 58
"""An agent at rest has 49, with the tables of flows and the file of events, a resolver process 12; room for
connections that come and go."""
FDS_OF_A_SANDBOX = {"agent": 5, "resolver": 4}
"""Both have its two sockets and what leads to them; the agent also watches its interfaces and their settings, and the
resolver process is asked for feeds."""
FDS_OF_AN_ENDPOINT = {"agent": 2, "resolver": 0}
"""The agent holds two settings of each interface."""
JOURNAL = """
import json, sqlite3
base = sqlite3.connect("file:/var/lib/netagent/state.db?mode=ro", uri=True)
rows = lambda sql: [list(row) for row in base.execute(sql)]
print(json.dumps({
    "endpoints": [json.loads(row) for (row,) in rows("SELECT row FROM endpoint")],
    "own": rows("SELECT lower(hex(scope)), lower(hex(key)) FROM own_entry WHERE value IS NOT NULL"),
    "replica": rows("SELECT lower(hex(scope)), lower(hex(key)) FROM replica_entry WHERE value IS NOT NULL"),
    "cooling": [one for (one,) in rows("SELECT DISTINCT network_id FROM cooling")],
}))
"""
PING_ALL = 'for a in "$@"; do { ping -n -q -c 1 -W 1 "$a" >/dev/null || echo "$a"; } & done; wait'


@dataclass(slots=True)
class Expectation:
    """What the test knows of endpoints, by (name, network id)."""

    present: set[tuple[str, str]] = field(default_factory=set)
    absent: set[tuple[str, str]] = field(default_factory=set)
    """Names that existed and must be gone, or never came about."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One namespace of a host."""

    addresses: frozenset[str]
    sockets: frozenset[int]
    """Inodes of what is asked for names."""
    feeds: frozenset[int]
    """Inodes of what is asked for feeds."""
    watches: frozenset[int]
    """Inodes of netlink sockets, such as those by which the agent hears of changes."""


@dataclass(frozen=True, slots=True)
class Process:
    """Open files of the agent or of the resolver process."""

    fds: int
    sockets: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One host."""

    name: str
    underlay: str
    endpoints: dict[str, Endpoint]
    networks: dict[str, dict[str, Any]]
    """By id, as `network inspect` shows them."""
    members: dict[str, str]
    devices: set[str]
    neighbours: dict[tuple[str, str], str]
    masters: dict[tuple[str, str], str]
    selves: dict[tuple[str, str], str]
    journal: dict[str, Any]
    sandboxes: dict[str, Sandbox]
    resolv_confs: set[str]
    host_sockets: set[int]
    processes: dict[str, Process]

    @property
    def local(self) -> dict[str, Endpoint]:
        return {i: e for i, e in self.endpoints.items() if e["local"]}


# ---- looking


def picture(cluster: Cluster, name: str) -> Picture:
    host = cluster.lab.host(name)
    networks = [
        cluster.netagent(name, "network", "inspect", n["id"]) for n in cluster.netagent(name, "network", "ls")
    ]
    neighbours = json.loads(host.must(["ip", "-json", "neigh", "show", "nud", "permanent"]))
    fdb = json.loads(host.must(["bridge", "-json", "fdb", "show"]))
    namespaces = json.loads(host.must(["ip", "-json", "netns", "list"]) or "[]")
    sandboxes = {one["name"]: _sandbox(cluster, name, one["name"]) for one in namespaces}
    folder = host.path("/etc/netns")
    return Picture(
        name=name,
        underlay=host.address,
        endpoints={e["id"]: e for e in cluster.held(name)},
        networks={network["id"]: network for network in networks},
        members=cluster.agents(name),
        devices={d["ifname"] for d in json.loads(host.must(["ip", "-json", "link"]))} - {"lo", "eth0"},
        neighbours={(n["dev"], n["dst"]): n["lladdr"] for n in neighbours},
        masters={
            (e["master"], e["mac"]): e["ifname"] for e in fdb if "master" in e and e["state"] == "static"
        },
        selves={(e["ifname"], e["mac"]): e["dst"] for e in fdb if "dst" in e},
        journal=json.loads(host.must(["python3", "-c", JOURNAL])),
        sandboxes=sandboxes,
        resolv_confs={one.name for one in folder.iterdir()} if folder.exists() else set(),
        host_sockets=_host_sockets(cluster, name),
        processes={
            what: process
            for what, pid in processes(cluster, name).items()
            if (process := _process(cluster, name, pid)) is not None
        },
    )


def processes(cluster: Cluster, host: str) -> dict[str, int]:
    """`agent` and `resolver`: their numbers on the host, those that run."""
    found = {}
    pid_file = cluster.lab.host(host).path("/run/lab-agent.pid")
    with_pid = pid_file.read_text().strip() if pid_file.exists() else ""
    if with_pid and cluster.lab.host(host).path(f"/proc/{with_pid}").exists():
        found["agent"] = int(with_pid)
    resolvers: list[str] = []

    def parent_of(pid: str) -> str:
        try:
            return cluster.lab.host(host).path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def is_one_at_most() -> bool:
        listed = cluster.lab.host(host).run(["pgrep", "-f", "netagent.resolver.process"]).stdout.split()
        parents = {pid: parent_of(pid) for pid in listed}
        # The part that answers has a parent of the same name, its broker; so has one that is being started.
        resolvers[:] = [pid for pid, parent in parents.items() if parent and pid not in parents.values()]
        return len(resolvers) <= 1

    cluster.wait(is_one_at_most, START_S, f"{host} has more than one resolver process")
    if resolvers:
        found["resolver"] = int(resolvers[0])
    return found


def memory(cluster: Cluster) -> dict[tuple[str, str], int]:
    """Resident bytes by (host, agent or resolver)."""
    sizes = {}
    for name in cluster.hosts:
        for what, pid in processes(cluster, name).items():
            status = cluster.lab.host(name).path(f"/proc/{pid}/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            sizes[name, what] = int(line.split()[1]) * 1024
    return sizes


def _process(cluster: Cluster, host: str, pid: int) -> Process | None:
    """None when it has ended meanwhile."""
    targets = []
    try:
        links = list(cluster.lab.host(host).path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    for one in links:
        try:
            targets.append(str(one.readlink()))
        except OSError:
            continue
    inodes = (re.fullmatch(r"socket:\[(\d+)\]", target) for target in targets)
    return Process(len(targets), frozenset(int(inode[1]) for inode in inodes if inode))


def _sandbox(cluster: Cluster, host: str, name: str) -> Sandbox:
    script = "cat /proc/net/udp /proc/net/tcp; tail -n +2 /proc/net/netlink; ip -json addr"
    text = cluster.lab.host(host).must(["ip", "netns", "exec", name, "sh", "-c", script])
    *lines, links = text.strip().splitlines()
    addresses = {
        address["local"]
        for link in json.loads(links)
        for address in link["addr_info"]
        if link["ifname"] != "lo" and address["scope"] == "global"
    }
    sockets = {int(line.split()[9]) for line in lines if line.split()[1] == RESOLVER_SOCKET}
    listening = "0A"
    feeds = {int(line.split()[9]) for line in lines if line.split()[1::2][:2] == [FEED_SOCKET, listening]}
    watches = {int(line.split()[9]) for line in lines if len(line.split()) == 10}
    return Sandbox(frozenset(addresses), frozenset(sockets), frozenset(feeds), frozenset(watches))


def _host_sockets(cluster: Cluster, host: str) -> set[int]:
    """Inodes of all sockets of the host's own namespace."""
    columns = {"udp": 9, "udp6": 9, "tcp": 9, "tcp6": 9, "raw6": 9, "icmp6": 9, "unix": 6, "netlink": 9}
    columns |= {"packet": 8}
    files = [f"/proc/net/{one}" for one in columns]
    text = cluster.lab.host(host).must(["tail", "-v", "-n", "+2", *files])
    found = set()
    column = 0
    for line in text.splitlines():
        header = re.fullmatch(r"==> /proc/net/(\w+) <==", line)
        if header:
            column = columns[header[1]]
        elif line.split():
            found.add(int(line.split()[column]))
    return found


# ---- judging


def flaws(cluster: Cluster, expectation: Expectation, *, names: bool = True) -> list[str]:
    """Everything that is not as it must be, a line each. With `names` by asking every host's resolver and pinging."""
    pictures = [
        future.result() for future in [cluster.in_background(picture, cluster, h) for h in cluster.hosts]
    ]
    found = list(_flaws(pictures, expectation))
    if names:
        asked = [cluster.in_background(_name_flaws, cluster, one, pictures, expectation) for one in pictures]
        found += [flaw for future in asked for flaw in future.result()]
    return found


def live_endpoints(pictures: Iterable[Picture]) -> dict[str, Endpoint]:
    """By id, as their own hosts show them."""
    return {i: e for one in pictures for i, e in one.local.items()}


def _flaws(pictures: list[Picture], expectation: Expectation) -> Iterator[str]:
    live = live_endpoints(pictures)
    yield from _expectation_flaws(live, expectation, set(pictures[0].networks))
    holders = Counter(address for endpoint in live.values() for address in endpoint["addresses"])
    yield from (f"{address} is used {n} times" for address, n in holders.items() if n > 1)
    for one in pictures:
        for flaw in (
            *_registry_flaws(one, pictures, live),
            *_kernel_flaws(one, live, {p.name: p.underlay for p in pictures}),
            *_journal_flaws(one, live),
            *_sandbox_flaws(one),
        ):
            yield f"{one.name}: {flaw}"


def _expectation_flaws(
    live: Mapping[str, Endpoint], expectation: Expectation, networks: set[str]
) -> Iterator[str]:
    there = Counter((e["name"], e["network_id"]) for e in live.values())
    yield from (f"{one} is there {n} times" for one, n in there.items() if n > 1)
    wanted = {one for one in expectation.present if one[1] in networks}
    yield from (f"{one} was attached and is gone" for one in sorted(wanted - there.keys()))
    yield from (f"{one} was removed and is there" for one in sorted(expectation.absent & there.keys()))


def _registry_flaws(one: Picture, pictures: list[Picture], live: Mapping[str, Endpoint]) -> Iterator[str]:
    yield from (f"{n}'s agent is {state}" for n, state in one.members.items() if state != "alive")
    if one.networks.keys() != pictures[0].networks.keys():
        yield f"knows the networks {sorted(one.networks)}, {pictures[0].name} {sorted(pictures[0].networks)}"
    attached = {i for i, network in one.networks.items() if network["attached"]}
    wanted = {i: e for i, e in live.items() if e["network_id"] in attached}
    yield from _difference("endpoints", one.endpoints.keys(), wanted.keys())
    for i, endpoint in one.endpoints.items():
        if endpoint["state"] != "up":
            yield f"{endpoint['name']} is {endpoint['state']}: {endpoint['reason']}"
        for key in ("addresses", "mac", "service", "host", "version"):
            if i in live and endpoint[key] != live[i][key]:
                yield f"{endpoint['name']} has {key} {endpoint[key]}, its owner says {live[i][key]}"
    for i, network in one.networks.items():
        used = sum(e["network_id"] == i for e in one.local.values())
        space = network["space"]
        if space["used"] != used or space["used"] + space["free"] + space["cooling"] != space["owned"]:
            yield f"{network['name']} counts {space} with {used} endpoints here"
        count = sum(e["network_id"] == i for e in live.values())
        if i in attached and network["endpoint_count"] != count:
            yield f"{network['name']} shows {network['endpoint_count']} endpoints of {count}"


def _kernel_flaws(
    one: Picture, live: Mapping[str, Endpoint], underlay_of: Mapping[str, str]
) -> Iterator[str]:
    devices: set[str] = set()
    neighbours: dict[tuple[str, str], str] = {}
    masters: dict[tuple[str, str], str] = {}
    selves: dict[tuple[str, str], str] = {}
    for network_id in {e["network_id"] for e in one.local.values()}:
        if network_id not in one.networks:
            yield f"has endpoints in network {network_id}, which it does not know"
            continue
        bridge, tunnel = _names_of(one, network_id)
        devices |= {bridge, tunnel}
        for i, endpoint in live.items():
            if endpoint["network_id"] != network_id:
                continue
            mac = endpoint["mac"]
            # A bridge that leads out asks no container, so it knows its own as well.
            if i not in one.local or not one.networks[network_id]["internal"]:
                neighbours |= {(bridge, address): mac for address in endpoint["addresses"]}
            if i in one.local:
                devices.add(veth_name(EndpointId(i)))
                masters[bridge, mac] = veth_name(EndpointId(i))
            else:
                masters[bridge, mac] = tunnel
                selves[tunnel, mac] = underlay_of[endpoint["host"]]
    probe = {name for name in one.devices - devices if name.startswith("nx-")}
    if len(probe) != 1:
        yield f"probe and leftover VXLAN devices {sorted(probe)}"
    yield from _difference("devices", one.devices - probe, devices)
    on_probe = {key for key in one.neighbours if key[0] in probe}
    if len(on_probe) != len(one.members) - 1:
        yield f"probe neighbours {sorted(on_probe)} for {len(one.members)} hosts"
    yield from _difference(
        "neighbours", one.neighbours.items() - _on(probe, one.neighbours), neighbours.items()
    )
    yield from _difference("bridge entries", one.masters.items(), masters.items())
    yield from _difference("tunnel entries", one.selves.items() - _on(probe, one.selves), selves.items())


def _names_of(one: Picture, network_id: str) -> tuple[str, str]:
    vni = one.networks[network_id]["vni"]
    return bridge_name(vni), vxlan_name(vni)


def _on(devices: set[str], entries: Mapping[tuple[str, str], str]) -> set[tuple[tuple[str, str], str]]:
    return {(key, value) for key, value in entries.items() if key[0] in devices}


def _journal_flaws(one: Picture, live: Mapping[str, Endpoint]) -> Iterator[str]:
    rows = {row["endpoint_id"]: row for row in one.journal["endpoints"]}
    yield from _difference("journal rows", rows.keys(), one.local.keys())
    yield from (f"row {r['name']} is only {r['stage']}" for r in rows.values() if r["stage"] != "published")
    published = {key[2:] for _, key in one.journal["own"] if key.startswith("65")}  # e
    yield from _difference("published records", published, one.local.keys())
    known = {key[2:] for _, key in one.journal["replica"] if key.startswith("65")}
    yield from (f"the journal keeps a replica of {i}, which is gone" for i in sorted(known - live.keys()))
    for what, letter in (("network", "6e"), ("attachment", "61"), ("grant", "67")):
        of_networks = {key[2:34] for _, key in one.journal["own"] if key[:2] == letter}
        gone = of_networks - one.networks.keys()
        yield from (f"the {what} record of removed network {i} is still there" for i in sorted(gone))
    gone = set(one.journal["cooling"]) - one.networks.keys()
    yield from (f"addresses of removed network {i} cool for ever" for i in sorted(gone))


def _sandbox_flaws(one: Picture) -> Iterator[str]:
    by_box: dict[str, set[str]] = defaultdict(set)
    for endpoint in one.local.values():
        by_box[endpoint["target"].removeprefix("netns:")] |= set(endpoint["addresses"])
    yield from _difference("resolv.conf files", one.resolv_confs, by_box.keys())
    yield from (
        f"{box} has endpoints and no namespace" for box in sorted(by_box.keys() - one.sandboxes.keys())
    )
    sockets = set(one.host_sockets)
    for name, sandbox in one.sandboxes.items():
        yield from _difference(f"addresses inside {name}", sandbox.addresses, by_box[name])
        if len(sandbox.sockets) != (2 if by_box[name] else 0):
            yield f"{len(sandbox.sockets)} resolver sockets in {name}, which has {len(by_box[name])} addresses"
        if len(sandbox.feeds) != (1 if by_box[name] else 0):
            yield f"{len(sandbox.feeds)} sockets for feeds in {name}, which has {len(by_box[name])} addresses"
        sockets |= sandbox.sockets | sandbox.feeds | sandbox.watches
    boxes = sum(bool(addresses) for addresses in by_box.values())
    if one.processes.keys() != {"agent", "resolver"}:
        yield f"runs only {sorted(one.processes)}"
    for what, process in one.processes.items():
        if len(process.sockets - sockets) > UNBOUND_SOCKETS[what]:
            yield f"the {what} holds {len(process.sockets - sockets)} sockets in namespaces that are gone"
        held = FDS_OF_A_SANDBOX[what] * boxes + FDS_OF_AN_ENDPOINT[what] * len(one.local)
        if process.fds > MAX_FDS_BESIDE_SANDBOXES + held:
            yield f"the {what} has {process.fds} open files for {len(one.local)} endpoints of {boxes} sandboxes"


def _difference(what: str, found: Iterable[Any], wanted: Iterable[Any]) -> Iterator[str]:
    there, needed = set(found), set(wanted)
    if there - needed:
        yield f"{what} left over: {sorted(there - needed)}"
    if needed - there:
        yield f"{what} missing: {sorted(needed - there)}"


# ---- names and packets


def _name_flaws(
    cluster: Cluster, one: Picture, pictures: list[Picture], expectation: Expectation
) -> list[str]:
    live = live_endpoints(pictures)
    found: list[str] = []
    by_network = {e["network_id"]: e["target"].removeprefix("netns:") for e in one.local.values()}
    for network_id, box in by_network.items():
        if network_id not in one.networks or box not in one.sandboxes:
            continue
        mates = [e for e in live.values() if e["network_id"] == network_id]
        wanted = _answers(mates, one.networks[network_id]["name"])
        for name, gone_id in expectation.absent:
            if gone_id == network_id and name not in {e["name"] for e in mates}:
                wanted[f"{name}.{one.networks[network_id]['name']}.{DOMAIN}.", "A"] = ("NXDOMAIN", [])
        found += _ask(cluster, one.name, box, wanted)
        addresses = [address for mate in mates for address in mate["addresses"]]
        host = cluster.lab.host(one.name)
        silent = host.must(["ip", "netns", "exec", box, "sh", "-c", PING_ALL, "sh", *addresses], timeout_s=60)
        found += [f"{one.name}: {box} can't reach {address}" for address in silent.split()]
    return found


def _answers(mates: list[Endpoint], network: str) -> dict[tuple[str, str], tuple[str, list[str]]]:
    answers = {}
    addresses: dict[str, set[str]] = defaultdict(set)
    for mate in mates:
        for label in (mate["name"], mate["service"]):
            addresses[f"{label}.{network}.{DOMAIN}."] |= set(mate["addresses"])
        for address in mate["addresses"]:
            reverse = ipaddress.ip_address(address).reverse_pointer + "."
            answers[reverse, "PTR"] = ("NOERROR", [f"{mate['name']}.{mate['host']}.{network}.{DOMAIN}."])
    for name, every in addresses.items():
        answers[name, "A"] = ("NOERROR", sorted(a for a in every if ":" not in a))
        answers[name, "AAAA"] = ("NOERROR", sorted(a for a in every if ":" in a))
    return answers


def _ask(
    cluster: Cluster, host: str, box: str, wanted: dict[tuple[str, str], tuple[str, list[str]]]
) -> Iterator[str]:
    argv = ["ip", "netns", "exec", box, "python3", QUESTIONS]
    said = json.loads(cluster.lab.host(host).run(argv, stdin=json.dumps(list(wanted)), timeout_s=60).stdout)
    for ((name, rtype), right), (code, data) in zip(wanted.items(), said, strict=True):
        # Of a service's IPv6 addresses each answer has one, in turn: clients sort, and would all take the same.
        all_of_it = data == right[1] or (rtype == "AAAA" and len(data) == 1 and data[0] in right[1])
        if code != right[0] or not all_of_it:
            yield f"{host}: {box} asks {rtype} {name} and hears {code} {data}, not {right}"


def log_flaws(cluster: Cluster) -> list[str]:
    """Tracebacks in any log of an agent or a resolver process."""
    found = []
    for name in cluster.hosts:
        host = cluster.lab.host(name)
        resolver_log = host.path("/run/netagent/resolver.log")
        for what, file in (("agent", host.log_file), ("resolver", resolver_log)):
            text = file.read_text(errors="replace") if file.exists() else ""
            if "Traceback" in text:
                at = text.index("Traceback")
                found.append(
                    f"{name}: the {what}'s log has a traceback:\n{text[max(0, at - 500) : at + 3000]}"
                )
    return found
