"""The catalogue of faults: what breaks a cluster, how a test breaks it, and what an operator reads then.

Each fault names at most three commands that an operator would type, and the words that one of their answers must
have: the thing, the cause, and what to type or do about it. `may_say` are the codes of warnings and the names of
checks that may speak while the fault lasts, on any host: all others would blame what is whole.

The hosts are h1, h2 and h3 with a container each, c1, c2 and c3, in the network `app`, and h4, a machine in no
cluster, whose agent does not run.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from lab.harness import Cluster

from netagent.model.ids import bridge_name, vxlan_name

STATE = "/var/lib/netagent"
CONFIGURATION = "/etc/netagent/netagent.toml"
MOST_COMMANDS = 3

Facts = dict[str, str]
"""Words that only the running cluster knows, by their names in the texts of a fault."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that breaks, and what is to be read of it."""

    name: str
    breaks: Callable[[Cluster], AbstractContextManager[Facts]]
    """Breaks it, and mends it at the end."""
    commands: tuple[tuple[str, str], ...]
    """Hosts, and what an operator types there."""
    thing: str
    cause: str
    cure: str
    may_say: frozenset[str] = frozenset()
    about: str = "h2"
    """The host or the thing that it hits. What other hosts say must name it."""


class Beside(Cluster):
    """Whose last host, h4, is a machine in no cluster."""

    @property
    def hosts(self) -> list[str]:
        return super().hosts[:-1]


def known(cluster: Cluster) -> Facts:
    """What the texts of faults name."""
    network = cluster.netagent("h1", "network", "inspect", "app")
    c1, c2 = (cluster.endpoint(name) for name in ("c1", "c2"))
    return {
        "bridge": bridge_name(network["vni"]),
        "tunnel": vxlan_name(network["vni"]),
        "mac": c2["mac"],
        "there": c2["addresses"][0],
        "route": ".".join(c1["addresses"][0].split(".")[:2]) + ".0.0/16",
    }


# -- ways to break things ------------------------------------------------------------------------------------------


@contextmanager
def commands(cluster: Cluster, host: str, breaking: str, mending: str = "") -> Iterator[Facts]:
    """Commands on a host, one after the other, separated by semicolons."""
    facts = known(cluster)

    def run(text: str) -> None:
        for command in filter(None, text.format(**facts).split("; ")):
            cluster.lab.host(host).must(command.split())

    run(breaking)
    try:
        yield facts
    finally:
        run(mending)


@contextmanager
def underlay(cluster: Cluster, breaking: Callable[[Cluster], None]) -> Iterator[Facts]:
    """What lies between the hosts."""
    facts = known(cluster)
    breaking(cluster)
    try:
        yield facts
    finally:
        cluster.lab.heal()


@contextmanager
def rule(cluster: Cluster, host: str, family: str, hook: str, text: str) -> Iterator[Facts]:
    """Another program's table on a host, with one rule."""
    machine = cluster.lab.host(host)
    machine.must(["nft", "add", "table", family, "site"])
    hooked = f"{{ type filter hook {hook} priority 0; policy accept; }}"
    machine.must(["nft", "add", "chain", family, "site", "guard", hooked])
    machine.must(["nft", "add", "rule", family, "site", "guard", *text.split()])
    try:
        yield {}
    finally:
        machine.must(["nft", "delete", "table", family, "site"])


@contextmanager
def rewritten(
    cluster: Cluster,
    host: str,
    path: str,
    change: Callable[[str], str],
    *,
    restart: bool = False,
    signal: str = "",
) -> Iterator[Facts]:
    """A file of a host says something else, and its agent reads it."""
    file = cluster.lab.host(host).path(path)
    before = file.read_text()

    def write(text: str) -> None:
        with cluster.agent_of(host) as agent:
            if restart:
                agent.stop_agent()
            file.write_text(text)
            if restart:
                agent.start_agent()
            if signal:
                agent.signal_agent(signal)

    write(change(before))
    try:
        yield {}
    finally:
        write(before)


def _with_another_key(text: str) -> str:
    ring = json.loads(text)
    ring["keys"] = [base64.b64encode(b"k" * 32).decode()]
    return json.dumps(ring)


@contextmanager
def agent_away(cluster: Cluster, host: str, meanwhile: str = "") -> Iterator[Facts]:
    """The agent of a host is stopped."""
    facts = known(cluster)
    with cluster.agent_of(host) as agent:
        agent.stop_agent()
    try:
        if meanwhile:
            cluster.lab.host(host).must(meanwhile.format(**facts).split())
        yield facts
    finally:
        with cluster.agent_of(host) as agent:
            agent.start_agent()


@contextmanager
def without_power(cluster: Cluster) -> Iterator[Facts]:
    """h2 dies with everything on it."""
    cluster.lab.power_off("h2")
    try:
        yield {}
    finally:
        cluster.lab.power_on("h2")


@contextmanager
def cloned(cluster: Cluster) -> Iterator[Facts]:
    """h4 is a copy of h2, state and all."""
    disks = {host: cluster.lab.host(host) for host in ("h2", "h4")}
    original, copy = (disks[host].path(STATE) for host in disks)
    with cluster.agent_of("h2") as agent:
        agent.stop_agent()
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    own = disks["h4"].path(CONFIGURATION).read_text()
    disks["h4"].path(CONFIGURATION).write_text(disks["h2"].path(CONFIGURATION).read_text())
    for host in disks:
        with cluster.agent_of(host) as agent:
            agent.start_agent()
    try:
        yield {}
    finally:  # by the cure; then h4 goes again
        token = cluster.netagent("h1", "invite")["token"]
        with cluster.agent_of("h4") as agent:
            agent.stop_agent()
            shutil.rmtree(copy)
            copy.mkdir(mode=0o700)
            agent.path(CONFIGURATION).write_text(own)
            agent.start_agent()
        cluster.netagent("h4", "join", "--token-file", "-", stdin=token)
        cluster.wait(lambda: cluster.agents("h2").get("h4") == "alive", 30.0, "the clone does not join")
        cluster.netagent("h4", "leave")
        with cluster.agent_of("h4") as agent:
            agent.stop_agent()
        shutil.rmtree(copy)


@contextmanager
def containers(
    cluster: Cluster, network: str, names: str, *, options: str = "", attach: str = ""
) -> Iterator[Facts]:
    """A network, and containers in it by turns on h1 and h2."""
    cluster.netagent("h1", "network", "create", network, *options.split())
    made: list[str] = []
    with ExitStack() as undo:
        undo.callback(cluster.netagent, "h1", "network", "rm", network)
        undo.callback(lambda: cluster.remove(*made))
        address = ""
        for number, name in enumerate(names.split()):
            words = ["--network", network, *attach.split()]
            address = cluster.attach(f"h{1 + number % 2}", name, *words)["addresses"][0]
            made.append(name)
        yield {"last": address}


@contextmanager
def full_subnet(cluster: Cluster) -> Iterator[Facts]:
    """A network of five addresses has five containers, and a sixth is to come."""
    with containers(cluster, "small", "s0 s1 s2 s3 s4", options="--subnet 10.77.0.0/29"):
        cluster.lab.add_container("late", "h1", [])
        try:
            yield {}
        finally:
            cluster.lab.remove_container("late", kill=True)


@contextmanager
def forgotten(cluster: Cluster) -> Iterator[Facts]:
    """h3 is cut off, an operator evicts it, and it comes back. What it says of that lasts."""
    former = cluster.netagent("h3", "status")["host"]["id"]
    for host in ("h1", "h2"):
        cluster.lab.cut(host, "h3")
    try:
        cluster.wait(
            lambda: cluster.try_netagent("h1", "forget", "h3").status == 0, 60.0, "h3 is not forgotten"
        )
    finally:
        cluster.lab.heal()
    token = cluster.netagent("h1", "invite")["token"]
    cluster.wait(
        lambda: (
            cluster.try_netagent("h3", "join", "--token-file", "-", stdin=token).status == 0
            and cluster.netagent("h3", "status")["cluster"] is not None
            # It may hear of its eviction a moment before it goes.
            and cluster.netagent("h3", "status")["host"]["id"] != former
            and "forgotten" in [one["code"] for one in cluster.netagent("h3", "status")["warnings"]]
        ),
        60.0,
        "h3 does not come back",
    )
    yield {}


# -- the catalogue -------------------------------------------------------------------------------------------------

PATHS = frozenset({"paths", "path-down", "path-one-way"})
FIREWALL = frozenset({"foreign-firewall", "input-rules", "forward-rules"})
AGENTS = frozenset({"agents", "agent-dead"})
STRANGERS = frozenset({"strangers", "stranger"})
DEGRADED = frozenset({"paths", "path-degraded"})

ALWAYS = (
    Fault(
        "wrong-key",
        partial(rewritten, host="h2", path=f"{STATE}/keyring", change=_with_another_key, restart=True),
        (("h1", "members"), ("h1", "status")),
        thing="packets from 192.0.2.2 (h2) are refused",
        cause="wrong-key, they are sealed with a key that this host does not have",
        cure="there `netagent leave`, then `netagent join`",
        may_say=AGENTS | STRANGERS,
    ),
    Fault(
        "path-with-a-small-mtu",
        partial(underlay, breaking=lambda cluster: cluster.lab.shrink("h2", 1300)),
        (("h1", "status"), ("h1", "ping c1 c2")),
        thing="the path to h2 carries packets of at most 1250 bytes",
        cause="but a network sends up to 1370",
        cure="let packets of 1420 bytes pass between 192.0.2.1 and 192.0.2.2",
        may_say=DEGRADED,
    ),
    Fault(
        "foreign-firewall",
        partial(rule, host="h2", family="inet", hook="input", text="udp dport 4799 drop"),
        (("h1", "status"), ("h2", "doctor")),
        thing="chain guard of table inet site",
        cause="the rule `udp dport 4799 drop`",
        cure="nft delete rule inet site guard handle",
        may_say=FIREWALL | PATHS,
    ),
    Fault(
        "blocked-gossip",
        partial(underlay, breaking=lambda cluster: cluster.lab.block("h2", 7956)),
        (("h1", "members"), ("h1", "status")),
        thing="the agent of h2 runs, but gossip considers it dead",
        cause="TCP port 7956 does not answer",
        cure="allow UDP and TCP ports 7956 and 7957 between 192.0.2.1 and 192.0.2.2; TCP port 7956 is blocked",
        may_say=AGENTS,
    ),
    Fault(
        "blocked-vxlan",
        partial(underlay, breaking=lambda cluster: cluster.lab.block("h2", 4799)),
        (("h1", "status"), ("h1", "ping h2")),
        thing="the agent of h2 answers",
        cause="but no packets pass between the containers",
        cure="allow UDP port 4799 between 192.0.2.1 and 192.0.2.2",
        may_say=PATHS,
    ),
    Fault(
        "full-subnet",
        full_subnet,
        (("h1", "attach netns:late --network small"), ("h1", "status")),
        thing="network small is full",
        cause="5 of its 5 addresses are in use",
        cure="`netagent detach` containers that are not needed",
        about="small",
        may_say=frozenset({"address-space", "network-full"}),
    ),
    Fault(
        "dead-upstream",
        partial(rewritten, host="h1", path="/etc/resolv.conf", change=lambda _: "nameserver 127.0.0.77\n"),
        (("h1", "lookup www.example.com --from c1"), ("h1", "status")),
        thing="the name server 127.0.0.77 does not answer",
        cause="names outside the cluster do not resolve in containers",
        cure="repair 127.0.0.77, or remove it from /etc/resolv.conf",
        about="h1",
        may_say=frozenset({"name-servers", "upstream-dead"}),
    ),
    Fault(
        "damaged-fdb",
        partial(
            agent_away,
            host="h1",
            meanwhile="bridge fdb replace {mac} dev {tunnel} dst 192.0.2.77 self permanent",
        ),
        (("h1", "status"), ("h1", "doctor")),
        thing="tunnel entry {mac} on {tunnel} is altered (c2 on h2)",
        cause="maps to 192.0.2.77 instead of 192.0.2.2",
        cure="bridge fdb replace {mac} dev {tunnel} dst 192.0.2.2 self permanent",
        about="h1",
        may_say=AGENTS | {"tunnel-entries"},
    ),
)
"""Found in each run."""

DUPLICATE = Fault(
    "duplicate-identity",
    cloned,
    (("h1", "status"), ("h2", "status")),
    thing="both use the identity of h2",
    cause="one was cloned",
    cure="on one of the two, stop the agent, remove its state folder, and join again",
    may_say=frozenset({"identities", "identity"}),
)
"""Found in each run as well."""

FORGOTTEN = Fault(
    "forgotten-host",
    forgotten,
    (("h1", "members"), ("h3", "status")),
    thing="c3 lost its address and is fenced",
    cause="was revoked, on h1, and was invited again",
    cure="`netagent attach` them again, or restart their containers",
    about="h3",
    may_say=frozenset({"other-warnings", "forgotten"}),
)
"""The last one: h3 is another host afterwards, and says so until its agent starts again."""

SOMETIMES = (
    Fault(
        "blocked-records",
        partial(underlay, breaking=lambda cluster: cluster.lab.block("h2", 7957)),
        (("h1", "status"), ("h1", "doctor")),
        thing="TCP port 7957 of h2 does not answer",
        cause="changes there arrive here late, or never",
        cure="allow UDP and TCP ports 7956 and 7957 between 192.0.2.1 and 192.0.2.2",
        may_say=frozenset({"agents", "agent-port"}),
    ),
    Fault(
        "membership-without-udp",
        partial(rule, host="h2", family="inet", hook="input", text="udp dport 7956 drop"),
        (("h1", "members"), ("h1", "status"), ("h2", "status")),
        thing="UDP port 7956 does not pass between this host and h2",
        cause="its agent is reached only by TCP or through other hosts",
        cure="allow UDP port 7956 between 192.0.2.1 and 192.0.2.2, in both directions",
        may_say=FIREWALL | {"agents", "agent-udp"},
    ),
    Fault(
        "agent-stopped",
        partial(agent_away, host="h2"),
        (("h1", "members"), ("h1", "status")),
        thing="the agent of h2 does not run",
        cause="192.0.2.2 refuses connections to its ports; its kernel answers",
        cure="on h2: `sudo systemctl start netagent`",
        may_say=AGENTS,
    ),
    Fault(
        "rule-at-a-bridge",
        partial(rule, host="h2", family="bridge", hook="forward", text="tcp dport 7002 drop"),
        (("h1", "ping c1 c2:7002"), ("h2", "doctor")),
        thing="the rule `tcp dport 7002 drop` in chain guard of table bridge site",
        cause="drops some packets on netagent's bridges",
        cure="nft delete rule bridge site guard handle",
        may_say=FIREWALL,
    ),
    Fault(
        "rule-on-the-way-out",
        partial(rule, host="h1", family="inet", hook="output", text="udp dport 4799 ip daddr 192.0.2.2 drop"),
        (("h1", "status"),),
        thing="chain guard of table inet site drops VXLAN (udp 4799) to h2",
        cause="the rule `udp dport 4799 ip daddr 192.0.2.2 drop`",
        cure="nft delete rule inet site guard handle",
        about="h1",
        may_say=FIREWALL | PATHS,
    ),
    Fault(
        "forward-policy",
        partial(
            commands, host="h1", breaking="iptables -P FORWARD DROP", mending="iptables -P FORWARD ACCEPT"
        ),
        (("h1", "ping c1 192.0.2.2 --count 1"),),
        thing="chain FORWARD of table ip filter",
        cause="drops packets that containers send out of this host by its policy",
        cure='nft insert rule ip filter FORWARD iifname "na-*" accept',
        about="h1",
        may_say=FIREWALL,
    ),
    Fault(
        "small-device",
        partial(
            commands, host="h2", breaking="ip link set eth0 mtu 1300", mending="ip link set eth0 mtu 1500"
        ),
        (("h1", "status"), ("h2", "doctor")),
        thing="network app has an MTU of 1370",
        cause="but eth0 carries at most 1250",
        cure="ip link set eth0 mtu 1420",
        may_say=DEGRADED | {"mtu"},
    ),
    Fault(
        "cable-out",
        partial(
            commands,
            host="h2",
            breaking="ip link set eth0 down",
            mending="ip link set eth0 up; ip route add default via 192.0.2.254",
        ),
        (("h1", "members"), ("h2", "status")),
        thing="this host",
        cause="has no address that other hosts could reach",
        cure="assign it to a device again, which the agent notices",
        may_say=AGENTS | PATHS | {"own-address", "address"},
    ),
    Fault(
        "overlapping-route",
        partial(
            commands,
            host="h2",
            breaking="ip route add {route} via 192.0.2.254",
            mending="ip route del {route} via 192.0.2.254",
        ),
        (("h1", "doctor"),),
        thing="the route {route} of h2",
        cause="overlaps network app",
        cure="remove the route, or recreate the network with another --subnet",
        may_say=frozenset({"routes", "overlap", "other-warnings"}),
    ),
    Fault(
        "another-vxlan-device",
        partial(
            commands,
            host="h1",
            breaking="ip link add theirs type vxlan id 77 dstport 4799 nolearning",
            mending="ip link del theirs",
        ),
        (("h1", "status"), ("h1", "doctor")),
        thing="theirs (VNI 77)",
        cause="uses netagent's UDP port 4799",
        cure="ip link del theirs, if it is not needed",
        about="h1",
        may_say=frozenset({"tunnels"}),
    ),
    Fault(
        "same-host-name",
        partial(
            rewritten,
            host="h3",
            path=CONFIGURATION,
            change=lambda text: text.replace('"h3"', '"h2"'),
            restart=True,
        ),
        (("h1", "members"), ("h1", "status")),
        thing="two hosts are named h2",
        cause="shows as h2-",
        cure="set another `name` on one of them and restart its agent",
        may_say=frozenset({"clashes", "host-name"}),
    ),
    Fault(
        "unknown-key",
        partial(
            rewritten,
            host="h1",
            path=CONFIGURATION,
            change=lambda text: text + "gosip_port = 7000\n",
            signal="HUP",
        ),
        (("h1", "status"),),
        thing=f"{CONFIGURATION} has the unknown key 'gosip_port'",
        cause="the configuration was not reloaded, and the next start would fail",
        cure="did you mean 'gossip_port'?",
        about="h1",
        may_say=frozenset({"configuration", "config"}),
    ),
    Fault(
        "not-linked",
        partial(containers, network="strict", names="asker asked", options="--policy links"),
        (("h1", "ping asker {last}:7002"),),
        thing="asker is not linked to asked",
        cause="the network's policy allows only linked services",
        cure="netagent link asker asked",
    ),
    Fault(
        "failing-check",
        partial(containers, network="checked", names="client sick", attach="--check tcp:8088"),
        (("h1", "lookup sick --from client"), ("h2", "check sick")),
        thing="sick in checked is starting",
        cause="tcp:8088 has not succeeded yet",
        cure="connection refused at 8088",
    ),
    Fault(
        "drained-host",
        partial(commands, host="h2", breaking="netagent drain --host", mending="netagent undrain --host"),
        (("h1", "lookup c2 --from c1"), ("h1", "status")),
        thing="names lead to no container of h2",
        cause="drained by root",
        cure="on h2: `netagent undrain --host`",
        may_say=frozenset({"other-warnings", "drained"}),
    ),
    Fault(
        "damage-that-was-repaired",
        partial(commands, host="h1", breaking="ip link del {bridge}"),
        (("h1", "status"), ("h1", "events --since 1m")),
        thing="{bridge}",
        cause="repaired a change made by another program: device-deleted",
        cure="by kernel",
    ),
    Fault(
        "table-that-was-restored",
        partial(commands, host="h1", breaking="nft delete table bridge netagent"),
        (("h1", "status"), ("h1", "events --since 1m")),
        thing="netagent's tables",
        cause="firewall: another program changed or removed",
        cure="restoring them",
    ),
    Fault(
        "interface-that-was-repaired",
        partial(commands, host="h1", breaking="ip netns exec c1 ip link del eth0"),
        (("h1", "inspect c1 --why"), ("h1", "events --since 1m")),
        thing="the interface of c1",
        cause="by another program: device-deleted: eth0",
        cure="repaired a change",
    ),
    Fault(
        "nothing-listens",
        partial(commands, host="h1", breaking=""),
        (("h1", "ping c1 c2:7777"),),
        thing="c2:7777 is reachable",
        cause="nothing listens at its port 7777",
        cure="(lost at: endpoint)",
    ),
    Fault(
        "other-resolv-conf",
        partial(
            commands,
            host="h1",
            breaking="sed -i s/127.0.0.11/192.0.2.254/ /etc/netns/c1/resolv.conf",
            mending="sed -i s/192.0.2.254/127.0.0.11/ /etc/netns/c1/resolv.conf",
        ),
        (("h1", "lookup c2 --from c1"), ("h1", "doctor")),
        thing="/etc/netns/c1/resolv.conf",
        cause="names another server first: programs there cannot resolve cluster names",
        cure="put `nameserver 127.0.0.11` first in it",
        about="h1",
        may_say=frozenset({"resolv-conf"}),
    ),
    Fault(
        "no-route-out",
        partial(
            commands,
            host="h1",
            breaking="ip route add unreachable 198.51.100.0/24",
            mending="ip route del unreachable 198.51.100.0/24",
        ),
        (("h1", "ping c1 198.51.100.7 --count 1"),),
        thing="route of this host to 198.51.100.7",
        cause="there is none",
        cure="ip route add default via GATEWAY",
    ),
)
"""Of which each run draws some."""

SLOW = (
    Fault(
        "lossy-path",
        partial(underlay, breaking=lambda cluster: cluster.lab.lose("h2", 30)),
        (("h1", "members"), ("h1", "status")),
        thing="the path to h2 loses",
        cause="% of packets on the round trip",
        cure="check the network between 192.0.2.1 and 192.0.2.2",
        may_say=AGENTS | PATHS | {"path-lossy", "agent-port", "agent-udp"},
    ),
    Fault(
        "host-without-power",
        without_power,
        (("h1", "members"), ("h1", "status"), ("h1", "lookup c2 --from c1")),
        thing="the agent of h2 does not answer at TCP ports 7956 and 7957 of 192.0.2.2",
        cause="its kernel does not answer either",
        cure="check that host",
        may_say=AGENTS,
    ),
)
"""What takes half a minute to be seen or to be over: only where each fault of the catalogue has its turn."""
