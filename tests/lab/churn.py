"""An actor that does at random, but from a seed, what users, runtimes and accidents do to one host.

Commands run beside each other on all hosts, so a seed gives the same wishes, not the same interleaving. What a
command's outcome proves is kept: attached, gone, or (the agent died meanwhile) unknown. Unknown is no excuse for
anything but its being there or not: all hosts must still agree on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.harness import Cluster
from lab.invariants import Expectation, processes
from netlab.process import wait_until
from netlab.programs import Finished

MAIN = "app"
START_S = 15.0
KILL_WITHIN_S = 0.25
"""An attach or detach takes some 150 ms, a third of it in the command line."""


@dataclass(slots=True)
class Actor:
    """One host's users. `expectation` is this host's part of the truth."""

    cluster: Cluster
    host: str
    seed: str
    main_id: str
    expectation: Expectation = field(default_factory=Expectation)
    done: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """What an agent that was running said it failed to do."""
    accidents: bool = True
    """Whether agents and resolver processes are killed and stopped as well."""
    _rng: random.Random = field(init=False)
    _boxes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Namespace -> network id -> network name; of what may be there."""
    _made: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(f"{self.seed} {self.host}")

    def run_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def step(self) -> None:
        """One thing."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (8, self.add),
            (5, self.detach),
            (3, self.connect),
            (3, self.disconnect),
            (2, self.link),
            (3, self.vanish),
            (1, self.create_network),
            (1, self.remove_network),
            *(((1, self.restart), (2, self.die), (1, self.kill_resolver)) if self.accidents else ()),
        ]
        chosen = self._rng.choices([one for _, one in steps], [weight for weight, _ in steps])[0]
        if len(self._boxes) > 6:
            chosen = self._rng.choice([self.detach, self.vanish])
        self.done[chosen.__name__] += 1
        chosen()

    # ---- what users do

    def add(self, *, killing: bool = False) -> None:
        """A container in the main network; every second one is a replica of one service."""
        self._made += 1
        name = f"{self.host}-{self._made}"
        self._must("ip", "netns", "add", name)
        self._boxes[name] = {}
        service = ["--service", "pool"] if self._made % 2 else []
        options = ["--name", name, "--network", MAIN, *service]
        self._attach(name, self.main_id, MAIN, ["attach", f"netns:{name}", *options], killing=killing)

    def connect(self, *, killing: bool = False) -> None:
        """A container into one more network."""
        others = [network for network in self._networks() if network[0] != self.main_id]
        boxes = [box for box, networks in self._boxes.items() if self._is_sure(box, networks)]
        if others and boxes:
            network_id, network = self._rng.choice(others)
            box = self._rng.choice(boxes)
            if network_id not in self._boxes[box]:
                argv = ["network", "connect", network_id, f"netns:{box}"]
                self._attach(box, network_id, network, argv, killing=killing)

    def disconnect(self, *, killing: bool = False) -> None:
        """A container out of one network, perhaps its last."""
        pairs = [(box, network) for box, networks in self._boxes.items() for network in networks]
        if pairs:
            box, network = self._rng.choice(pairs)
            self._detach(box, [network], ["network", "disconnect", network, f"netns:{box}"], killing=killing)

    def detach(self, *, killing: bool = False) -> None:
        """A container that is in one network goes in good order."""
        boxes = [box for box, networks in self._boxes.items() if len(networks) == 1]
        if boxes:
            box = self._rng.choice(boxes)
            if self._detach(box, list(self._boxes[box]), ["detach", box], killing=killing):
                self._must("ip", "netns", "delete", box)
                del self._boxes[box]

    def link(self) -> None:
        """A link comes or goes."""
        boxes = [box for box, networks in self._boxes.items() if len(networks) == 1]
        if boxes:
            verb = self._rng.choice(["link", "unlink"])
            self._netagent(verb, self._rng.choice(boxes), "pool:database")

    def create_network(self) -> None:
        self._netagent("network", "create", self._rng.choice(["red", "blue"]))

    def remove_network(self) -> None:
        force = ["--force"] if self._rng.random() < 0.5 else []
        self._netagent("network", "rm", self._rng.choice(["red", "blue"]), *force)

    # ---- accidents

    def vanish(self) -> None:
        """A container ends without a word."""
        if self._boxes:
            box = self._rng.choice(list(self._boxes))
            self._must("ip", "netns", "delete", box)
            for network in self._boxes.pop(box):
                self._note(box, network, present=False)

    def restart(self) -> None:
        with self.cluster.agent_of(self.host) as host:
            host.stop_agent()
        self._start()

    def die(self) -> None:
        """The agent is killed, as often as not in the middle of something; a container may end before it is back."""
        if self._rng.random() < 0.7:
            self._rng.choice([self.add, self.detach, self.connect, self.disconnect])(killing=True)
        self._kill("agent")
        if self._rng.random() < 0.3:
            self.vanish()
        if self._rng.random() < 0.2:
            self._kill("resolver")
        self._start()

    def kill_resolver(self) -> None:
        self._kill("resolver")

    def die_attaching(self) -> None:
        """An attach loses its agent. Tried again, as a runtime does, it succeeds however far it had come."""
        self.add(killing=True)
        self._kill("agent")
        self._start()
        box = next(reversed(self._boxes))
        service = ["--service", "pool"] if self._made % 2 else []
        options = ["--name", box, "--network", MAIN, *service]
        self._attach(box, self.main_id, MAIN, ["attach", f"netns:{box}", *options], killing=False)
        if (box, self.main_id) not in self.expectation.present:
            self.failures.append(f"{self.host}: {box} can't be attached again: {dict(self.refusals)}")

    def die_detaching(self) -> None:
        """A detach loses its agent. Tried again it succeeds, or there is nothing left to detach."""
        boxes = list(self._boxes)
        if boxes:
            box = self._rng.choice(boxes)
            self._detach(box, [self.main_id], ["detach", box], killing=True)
            self._kill("agent")
            self._start()
            if not self._detach(box, [self.main_id], ["detach", box], killing=False):
                self.failures.append(f"{self.host}: {box} can't be detached: {dict(self.refusals)}")
            self._must("ip", "netns", "delete", box)
            del self._boxes[box]

    # ---- parts

    def _attach(self, box: str, network_id: str, network: str, argv: list[str], *, killing: bool) -> None:
        self._boxes[box][network_id] = network
        done = self._kill_during(argv) if killing else self._netagent(*argv)
        if done.status == 0:
            self._note(box, network_id, present=True)
        elif killing:
            self._forget(box, network_id)
        else:
            del self._boxes[box][network_id]
            self._note(box, network_id, present=False)

    def _detach(self, box: str, networks: list[str], argv: list[str], *, killing: bool) -> bool:
        done = self._kill_during(argv) if killing else self._netagent(*argv)
        for network in networks:
            if done.status in {0, 1}:  # 1: it was not there, as when its network was removed
                self._boxes[box].pop(network, None)
                self._note(box, network, present=False)
            else:
                self._forget(box, network)
        return done.status in {0, 1}

    def _note(self, box: str, network_id: str, *, present: bool) -> None:
        self._forget(box, network_id)
        (self.expectation.present if present else self.expectation.absent).add((box, network_id))

    def _forget(self, box: str, network_id: str) -> None:
        self.expectation.present.discard((box, network_id))
        self.expectation.absent.discard((box, network_id))

    def _is_sure(self, box: str, networks: dict[str, str]) -> bool:
        return any((box, network) in self.expectation.present for network in networks)

    def _networks(self) -> list[tuple[str, str]]:
        done = self._netagent("network", "ls", "--json")
        items = json.loads(done.stdout)["items"] if done.status == 0 else []
        return sorted((one["id"], one["name"]) for one in items)

    def _netagent(self, *arguments: str) -> Finished:
        done = self.cluster.try_netagent(self.host, *arguments)
        if done.status == 3 or (done.status == 5 and "did not arrive within" not in done.stderr):
            self.failures.append(f"{self.host}: {' '.join(arguments)}: {done.stderr}")
        if done.status:
            self.refusals[f"{arguments[0]} {done.status} {done.stderr.strip().splitlines()[0][:160]}"] += 1
        return done

    def _kill_during(self, argv: list[str]) -> Finished:
        """The command's outcome, when its agent is killed a moment after its start."""
        pid = outer_pid(self.cluster, self.host, "agent")
        running = self.cluster.in_background(self.cluster.try_netagent, self.host, *argv)
        time.sleep(self._rng.uniform(0.03, KILL_WITHIN_S))
        kill(pid)
        done: Finished = running.result()
        self.done[f"killed: {argv[0]} {done.status}"] += 1
        return done

    def _kill(self, what: str) -> None:
        kill(outer_pid(self.cluster, self.host, what))

    def _start(self) -> None:
        host = self.cluster.lab.host(self.host)
        self.cluster.wait(lambda: not host.agent_running, START_S, f"the agent of {self.host} does not die")
        with self.cluster.agent_of(self.host) as changing:
            changing.start_agent(wait=False)
        # Not by its socket alone: a thread of the one that was killed may hold that for a moment longer.
        wait_until(
            lambda: self.cluster.try_netagent(self.host, "version").status == 0,
            START_S,
            lambda: f"the agent of {self.host} does not come back:\n{host.log_tail(60)}",
        )

    def _must(self, *argv: str) -> None:
        self.cluster.lab.host(self.host).must(list(argv))


def kill(pid: int | None) -> None:
    """One that is there, and has not just ended by itself."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def outer_pid(cluster: Cluster, host: str, what: str) -> int | None:
    """The process's number on this machine, where signals cost no process to send."""
    inner = processes(cluster, host).get(what)
    namespace = (cluster.lab.host(host).path("/").parent / "ns" / "pid").readlink()
    for entry in Path("/proc").iterdir():
        if inner is None or not entry.name.isdigit():
            continue
        try:
            if (entry / "ns" / "pid").readlink() == namespace:
                numbers = next(
                    line.split()
                    for line in (entry / "status").read_text().splitlines()
                    if line.startswith("NSpid")
                )
                if int(numbers[-1]) == inner:
                    return int(entry.name)
        except (OSError, StopIteration):
            continue
    return None
