"""Kill -9 before every single effect of attach, detach and what surrounds them: the next life has all or nothing.

Two hosts on one wire, real journals, kernels and resolver processes (kernel/crash_host.py). One of the hosts dies
again and again, before its first effect, its second, and so on until an operation ends without reaching the number.
After each death it starts again and is compared with what the kernel, the journal, the containers and the other host
say.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness.namespaces import Namespace, NamespaceFactory

from netagent.model.ids import EndpointId, NetworkId, bridge_name, peer_name, veth_name, vni_of, vxlan_name

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(400)]

PROGRAM = str(Path(__file__).with_name("crash_host.py"))
REST_S = 20.0
"""Until both hosts and their kernels agree. What a stopped agent did not hear is there in well under a second; a host
that was taken for dead is dialled again after some seconds."""
MAX_EFFECTS = 400
"""No operation has so many; an enumeration that comes here would go on for ever."""


@dataclass
class Host:
    """One of the two, through its program."""

    namespace: Namespace
    folder: Path
    process: subprocess.Popen[bytes]
    resolver: int = 0
    deaths: int = 0

    def ask(self, *command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "agent.log").read_text()[-5000:]
        answer: dict[str, Any] = json.loads(line)
        assert answer.get("ended", -signal.SIGKILL) == -signal.SIGKILL, (
            self.folder / "agent.log"
        ).read_text()
        self.deaths += "ended" in answer
        return answer

    def do_all(self, fuse: int, operations: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
        """Beside each other; those that were acknowledged before the agent died, or None when it did not."""
        acknowledged = []
        answer = self.ask("all", fuse, *operations)
        while "acknowledged" in answer:
            acknowledged.append(tuple(answer["acknowledged"]))
            answer = self._answer()
        return acknowledged if "ended" in answer else None

    def start(self, fuse: int = 0) -> bool:
        """Whether it came up."""
        answer = self.ask("start", fuse)
        if "up" in answer:
            self.resolver = answer["up"]["resolver"] or self.resolver
        return "up" in answer

    def do(self, *command: Any, fuse: int = 0) -> Any:
        """What the operation gives; None when the agent died of it."""
        answer = self.ask("do", fuse, *command)
        assert "refused" not in answer, answer
        return answer.get("done")

    def refusal(self, *command: Any) -> str:
        return str(self.ask("do", 0, *command).get("refused", ""))

    def report(self) -> dict[str, Any]:
        return self.ask("report")

    def journal(self) -> tuple[set[str], set[str]]:
        """Endpoints by their rows, and by our records that are not withdrawn."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.folder}/state/state.db?mode=ro", uri=True)
        ) as base:
            rows = {json.loads(row)["endpoint_id"] for (row,) in base.execute("SELECT row FROM endpoint")}
            keys = base.execute("SELECT key FROM own_entry WHERE value IS NOT NULL")
            return rows, {key[1:].hex() for (key,) in keys if key[:1] == b"e"}


@dataclass
class World:
    """`h1` dies, `h2` watches. `boxes`: containers of h1, by the name that their endpoint has; `far`: those of h2, by
    the network that they are in."""

    h1: Host
    h2: Host
    boxes: dict[str, Namespace]
    far: dict[str, Namespace]
    kept: list[str] = field(default_factory=list)
    """The endpoint that was acknowledged once and is never touched: id and addresses."""

    def rest(self, wanted: set[str] | None = None) -> dict[str, str]:
        """Name -> id of h1's endpoints beside the kept one, once nothing is wrong any more; with `wanted` these."""
        end = time.monotonic() + REST_S
        while True:
            began = time.monotonic()
            report, flaws = self._look()
            there = {name: row["id"] for name, row in report.items() if row["id"] != self.kept[0]}
            if wanted is not None and there.keys() != wanted:
                flaws.append(f"has the endpoints {sorted(there)}, not {sorted(wanted)}")
            if not flaws:
                return there
            if began > end:
                pytest.fail(
                    "\n".join([*flaws, (self.h1.folder / "agent.log").read_text()[-4000:]]), pytrace=False
                )
            time.sleep(0.02)

    def _look(self) -> tuple[dict[str, Any], list[str]]:
        one, other = self.h1.report(), self.h2.report()
        rows = one["rows"]
        whole = {i for i, row in rows.items() if row["stage"] == "published"}
        in_journal, in_log = self.h1.journal()
        flaws = []

        def compare(what: str, found: Any, right: Any) -> None:
            if found != right:
                flaws.append(f"{what}: {found}, not {right}")

        compare("endpoints in the journal", in_journal, set(rows))
        compare("records in the journal", in_log, set(one["own"]))
        compare("addresses in use", one["used"], len(rows))
        compare("records that the other host has", set(other["foreign"]), set(one["own"]))
        compare("networks that the other host has", other["networks"], one["networks"])
        compare("the kept endpoint", rows.get(self.kept[0], {}).get("addresses"), self.kept[1:])
        announced = set(one["own"])
        if not whole <= announced <= set(rows):
            flaws.append(f"records {announced} for the endpoints {rows}")
        self._compare_kernel(rows, compare)
        listed = json.loads(self.h2.namespace.run("ip -json neigh show nud permanent"))
        ways = {one["dst"] for one in listed if one["dev"].startswith("na-")}
        local = {address for row in other["rows"].values() for address in row["addresses"]}
        there = {address for i in announced for address in rows[i]["addresses"]}
        compare("ways there", ways - local, there)
        for name, box in self.boxes.items():
            mine = [row for row in rows.values() if row["name"] == name and row["stage"] == "published"]
            addresses, sockets = inside(box)
            compare(f"addresses in {name}", addresses, {a for row in mine for a in row["addresses"]})
            compare(f"resolver's sockets in {name}", sockets, 3 if mine else 0)
            has_file = (self.h1.folder / "etc" / box.name / "resolv.conf").exists()
            compare(f"resolv.conf of {name}", has_file, any(not row["origin"] for row in mine))
        return {row["name"]: row | {"id": i} for i, row in rows.items()}, flaws

    def _compare_kernel(self, rows: Any, compare: Callable[[str, Any, Any], None]) -> None:
        devices = set()
        for endpoint_id, row in rows.items():
            devices |= names_of(row["network"])
            if row["stage"] == "published" or row["plugged"]:
                devices.add(veth_name(EndpointId(endpoint_id)))
            if row["plugged"]:
                devices.add(peer_name(EndpointId(endpoint_id)))
        links, *rules = looked_into(self.h1.namespace, "ip -json link; nft list ruleset")
        there = {link["ifname"] for link in json.loads(links)}
        probe = {name for name in there if name.startswith("nx-")} - devices
        compare("probe devices", len(probe), 1)
        compare("devices", there - {"lo", "wire"} - probe, devices)
        spoken = words(" ".join(rules))
        guarded = {word for word in spoken if word[:2] == "nv"}
        compare("published", str(PORT) in spoken, any(PORT in row["ports"] for row in rows.values()))
        compare("endpoints in the firewall", guarded - {"nv*"}, {veth_name(EndpointId(i)) for i in rows})


def words(text: str) -> set[str]:
    return set(text.replace('"', " ").split())


def names_of(network_id: str) -> set[str]:
    vni = vni_of(NetworkId(network_id))
    return {bridge_name(vni), vxlan_name(vni)}


def looked_into(namespace: Namespace, script: str) -> list[str]:
    """Lines of several programs' output, for the price of one visit."""
    words = ["ip", "netns", "exec", namespace.name, "sh", "-c", script]
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()


def inside(box: Namespace) -> tuple[set[str], int]:
    """Its addresses; sockets at the resolver's: UDP and TCP for names, and one that feeds are asked at."""
    links, *sockets = looked_into(box, "ip -json address; ss -Hltun src 127.0.0.11")
    found = {
        one["local"]
        for link in json.loads(links)
        if link["ifname"] != "lo"
        for one in link["addr_info"]
        if one["scope"] == "global"
    }
    return found, len(sockets)


@pytest.fixture
def world(wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path) -> Iterator[World]:
    hosts: list[Host] = []
    with contextlib.ExitStack() as stack:
        for number, namespace in enumerate(wire, 1):
            folder = tmp_path / f"h{number}"
            folder.mkdir()
            addresses_ = [f"192.0.2.{number}", f"192.0.2.{3 - number}"]
            argv = ["ip", "netns", "exec", namespace.name, sys.executable, PROGRAM, str(folder), f"h{number}"]
            process = subprocess.Popen(
                [*argv, *addresses_], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
            hosts.append(Host(namespace, folder, process))
            stack.callback(_end, hosts[-1])
        boxes = {name: namespaces(name) for name in ("kept", "web")}
        far = {network: namespaces(network) for network in ("app", "other")}
        world = World(hosts[0], hosts[1], boxes=boxes, far=far)
        for host in hosts:
            assert host.start()
        for network, box in world.far.items():
            world.h1.do("create", network)
            _wait(lambda: network in world.h2.report()["networks"].values())
            world.h2.do("attach", network, box.name, network)
        world.kept = world.h1.do("attach", "other", boxes["kept"].name, "kept")
        world.rest(set())
        yield world


def _end(host: Host) -> None:
    """The agent, what forks it, and the resolver process that outlives both."""
    with host.process:
        assert host.process.stdin is not None
        host.process.stdin.close()
        host.process.wait(10)
    if host.resolver:
        with contextlib.suppress(ProcessLookupError):
            os.kill(host.resolver, signal.SIGKILL)


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + REST_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill_everywhere(
    host: Host, operation: tuple[Any, ...], after: Callable[[], None], *, least: int = 3
) -> None:
    """Do it with the agent dying before its first effect, its second, …; after each death a new life, and `after`,
    which undoes what was done. Ends when it is done without a death. `least`: effects that it surely has, of the
    journal, the kernel and the resolver."""
    for number in range(1, MAX_EFFECTS):
        survived = host.do(*operation, fuse=number) is not None
        if not survived:
            assert host.start()
        after()
        if survived:
            print(f"{operation[0]}: killed before each of {number - 1} effects")
            assert number > least
            return
    pytest.fail("it never ends")


ORIGIN = "docker:f00d"
PORT = 18080
"""Published by the container that comes and goes."""


def test_scenario_42_killed_anywhere_in_attach_and_detach(world: World) -> None:
    attach = ("attach", "app", world.boxes["web"].name, "web", PORT)
    detach = ("detach", "web")

    def after_attach() -> None:
        there = world.rest()
        again = world.h1.do(*attach)
        assert there.get("web", again[0]) == again[0], "the same again is the same"
        assert world.rest({"web"}) == {"web": again[0]}
        world.h1.do(*detach)
        world.rest(set())

    def after_detach() -> None:
        if world.rest():
            world.h1.do(*detach)
        world.rest(set())
        world.h1.do(*attach)
        world.rest({"web"})

    kill_everywhere(world.h1, attach, after_attach)
    world.h1.do(*attach)
    kill_everywhere(world.h1, detach, after_detach)


def test_scenario_42_killed_anywhere_while_a_runtime_starts_and_ends_a_container(world: World) -> None:
    plug, enter = ("plug", "app", ORIGIN), ("enter", ORIGIN, world.boxes["web"].name, "web")
    unplug = ("unplug", ORIGIN)

    def after_plug() -> None:
        """The call has failed, so the runtime gives the container up."""
        world.rest()
        world.h1.do(*unplug)
        world.rest(set())

    def after_enter() -> None:
        """The container is about to start, so its runtime names its namespace to the new agent once more."""
        endpoint = world.h1.do(*enter)
        assert world.rest({"web"}) == {"web": endpoint[0]}
        world.h1.do(*unplug)
        world.rest(set())
        world.h1.do(*plug)

    def after_unplug() -> None:
        """The runtime repeats its last words, and starts the container another time."""
        world.rest()
        world.h1.do(*unplug)
        world.rest(set())
        world.h1.do(*plug)
        world.h1.do(*enter)
        world.rest({"web"})

    kill_everywhere(world.h1, plug, after_plug)
    world.h1.do(*plug)
    kill_everywhere(world.h1, enter, after_enter)
    world.h1.do(*enter)
    kill_everywhere(world.h1, unplug, after_unplug)


def test_scenario_42_killed_anywhere_while_a_network_is_made_and_removed(world: World) -> None:
    create, delete = ("create", "new"), ("delete", "new")

    def has_it() -> bool:
        return "new" in world.h1.report()["networks"].values()

    def after_create() -> None:
        """It is there as a whole, with space for every host, or can be made again."""
        world.rest(set())
        world.h1.do(*create)
        world.rest(set())
        assert list(world.h1.report()["networks"].values()).count("new") == 1
        world.h2.do("attach", "new", world.far["app"].name, "far")
        world.h1.do("attach", "new", world.boxes["web"].name, "web")
        world.rest({"web"})
        world.h1.do("detach", "web")
        world.h2.do("detach", "far")
        world.h1.do(*delete)
        world.rest(set())

    def after_delete() -> None:
        world.rest(set())
        if has_it():
            world.h1.do(*delete)
        world.rest(set())
        assert not has_it()
        world.h1.do(*create)

    kill_everywhere(world.h1, create, after_create)
    world.h1.do(*create)
    # It is done when the journal and the gossip have it; the kernel follows, sometimes while it still runs.
    kill_everywhere(world.h1, delete, after_delete, least=2)


THOUSAND = [
    pytest.param(100, id="a tenth"),
    pytest.param(1000, id="all", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
]
BESIDE = 4


@pytest.mark.parametrize("count", THOUSAND)
def test_scenario_32_a_thousand_attach_and_detach_with_random_kills(
    world: World, namespaces: NamespaceFactory, churn_seed: str, count: int
) -> None:
    """Several beside each other; half of the time the agent dies in the middle. What was acknowledged holds, the rest
    is whole or not there, and as many addresses are used as containers live (`World.rest`)."""
    rng = random.Random(churn_seed)
    world.boxes |= {f"b{number}": namespaces(f"b{number}") for number in range(2 * BESIDE)}
    names = [name for name in world.boxes if name[0] == "b"]
    there: set[str] = set()
    done = 0
    while done < count:
        chosen = rng.sample(names, BESIDE)
        operations: dict[str, tuple[str, ...]] = {
            name: ("detach", name) if name in there else ("attach", "app", world.boxes[name].name, name)
            for name in chosen
        }
        done += BESIDE
        fuse = rng.randint(1, 60) if rng.random() < 0.5 else 0
        acknowledged = world.h1.do_all(fuse, list(operations.values()))
        sure = set(chosen) if acknowledged is None else {one[-1] for one in acknowledged}
        if acknowledged is not None:
            assert world.h1.start()
        there = there.symmetric_difference(sure)
        found = set(world.rest())
        unsure = set(chosen) - sure
        assert found - unsure == there - unsure
        there = found
    print(f"{done} of which {world.h1.deaths} times the agent died")
    assert world.h1.deaths > count / 30


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_scenario_42_killed_anywhere_in_the_start_that_follows(world: World) -> None:
    """Wherever attach or detach was cut short: what the next life does about it may be cut short anywhere, too."""
    attach, detach = ("attach", "app", world.boxes["web"].name, "web"), ("detach", "web")

    def cut_short(operation: tuple[Any, ...], number: int) -> bool:
        """Whether the operation was killed before its effect of that number."""
        if operation is detach:
            world.h1.do(*attach)
        is_cut = world.h1.do(*operation, fuse=number) is None
        if not is_cut:
            world.h1.ask("die")
        return is_cut

    def start_everywhere(operation: tuple[Any, ...], number: int) -> bool:
        """As `kill_everywhere`, for the start after that; False when the operation has no effect of that number."""
        for fuse in range(1, MAX_EFFECTS):
            is_cut = cut_short(operation, number)
            is_up = world.h1.start(fuse)
            if not is_up:
                assert world.h1.start()
            if world.rest():
                world.h1.do(*detach)
            world.rest(set())
            if is_up:
                return is_cut
        pytest.fail("it never ends")

    for operation in (attach, detach):
        number = 1
        while start_everywhere(operation, number):
            number += 1
    print(f"{world.h1.deaths} deaths")
    assert world.h1.deaths > 100
