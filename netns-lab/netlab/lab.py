"""The lab as a whole: the implementation of each command.

Commands that change something hold the state file's lock for as long as they run; those that only run a program
inside do not.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netlab import cgroups, programs
from netlab.cluster import form_cluster, install_runtimes, start_agents, start_runtimes
from netlab.container import Container
from netlab.errors import LabError
from netlab.fabric import Fabric, gateway_for, named_namespaces
from netlab.host import Host, keepers
from netlab.process import wait_until
from netlab.state import ContainerState, Faults, HostState, LabState, StateFile
from netlab.topology import Topology

PROGRAMS = ("ip", "nft", "nsenter", "mount")

DOWN_S = 5.0
"""Removing a lab usually takes one attempt. It is repeated for this long."""

_CONTAINER_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Overview:
    """The output of `lab status`."""

    hosts: list[tuple[str, str, bool, bool]]
    """(name, address, has power, agent runs)."""
    containers: list[tuple[str, str, bool]]
    """(name, host, exists)."""
    faults: Faults


class Lab:
    """The lab whose files are in `folder`; its last part is the first part of all namespace names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = StateFile(folder)
        self._fabric = Fabric(folder.name)

    # ---- the whole lab

    def up(
        self, topology: Topology, *, join: bool = True, agents: bool = True, runtimes: bool = False
    ) -> None:
        """Boot all hosts, start their agents, make them a cluster, and create its contents. All or nothing.

        With `runtimes` every host has a dockerd and a podman as well, which its agent serves.
        """
        programs.require_root()
        programs.require([*PROGRAMS, *(["netagent"] if agents else [])])
        if self._file.exists or self.remains():
            raise LabError(f"a lab is up in {self.folder}, or was: `lab down` first", exit_status=4)
        try:
            self._fabric.create()
            with self._file.change() as state:
                for name, address in topology.hosts.items():
                    state.hosts[name] = HostState(address, behind_nat=name in topology.nat)
                    self._host(state, name).boot()
                self._fabric.apply(state.faults, list(state.hosts))
                hosts = [self._host(state, name) for name in state.hosts]
                if runtimes:
                    install_runtimes(hosts)
                if agents:
                    start_agents(hosts)
                    if join:
                        form_cluster(hosts)
                if runtimes:
                    start_runtimes(hosts)
            for network in topology.networks:
                hosts[0].must(["netagent", "network", "create", *network])
            for name, container in topology.containers.items():
                self.add_container(name, container.host, container.attach, container.command)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove everything found on the machine, whatever the state file says. LabError for leftovers."""
        programs.require_root()
        # After an `up` that was killed, a program may just be creating something.
        wait_until(
            self._removed, DOWN_S, lambda: f"could not remove: {', '.join(self.remains())}", every_s=0.1
        )

    def _removed(self) -> bool:
        found = keepers(self._fabric)
        for keeper in found:
            self._fabric.cut_cable(keeper.host)
        for keeper in found:
            keeper.process.kill()
        for name in self._namespaces():
            programs.run(["ip", "netns", "delete", name])
        cgroups.remove(self._host_names())
        if self.folder.exists():
            shutil.rmtree(self.folder)
        return not self.remains()

    def remains(self) -> list[str]:
        """Return the names of everything of this lab on the machine; empty = nothing."""
        running = [f"{keeper.host} (process {keeper.process.pid})" for keeper in keepers(self._fabric)]
        groups = [str(group) for group in cgroups.named(self._host_names())]
        files = [str(self.folder)] if self.folder.exists() else []
        return [*running, *self._namespaces(), *groups, *files]

    def overview(self) -> Overview:
        """Return the present state."""
        state = self._file.read()
        hosts = [self._host(state, name) for name in state.hosts]
        containers = [self._container(state, name) for name in state.containers]
        return Overview(
            [(host.name, host.address, host.has_power, host.agent_running) for host in hosts],
            [(container.name, container.host.name, container.exists) for container in containers],
            state.faults,
        )

    # ---- hosts

    def host(self, name: str) -> Host:
        """Return a host for running programs on it. Raises LabError when it does not exist."""
        return self._host(self._file.read(), name)

    @property
    def hosts(self) -> list[Host]:
        """Return all hosts, in the order of their numbers."""
        state = self._file.read()
        return [self._host(state, name) for name in state.hosts]

    @contextmanager
    def changing(self, host: str) -> Iterator[Host]:
        """Yield a host whose agent or dockerd will be started or stopped."""
        with self._file.change() as state:
            yield self._host(state, host)

    def power_off(self, name: str) -> None:
        """Kill the host with everything on it, without any notice."""
        with self._file.change() as state:
            host = self._host(state, name)
            if not host.has_power:
                raise LabError(f"{name} already has no power", exit_status=4)
            host.power_off()

    def power_on(self, name: str) -> list[str]:
        """Boot with the same disk: the agent if it ran, then the host's containers, as a runtime starts them again.

        Returns what could not be started, a sentence each.
        """
        failures = []
        with self._file.change() as state:
            host = self._host(state, name)
            host.boot()
            self._fabric.apply(state.faults, [name])
            if state.hosts[name].agent_wanted:
                host.start_agent()
            dockerd_options = state.hosts[name].dockerd_wanted
            if dockerd_options is not None:
                host.docker.start(dockerd_options)
            for container_name, container in state.containers.items():
                if container.host == name:
                    try:
                        self._container(state, container_name).start()
                    except LabError as error:
                        failures.append(f"container {container_name}: {error}")
        return failures

    def readdress(self, name: str, address: str) -> None:
        """Give the host another address on the fabric; its programs have to notice by themselves."""
        with self._file.change() as state:
            host = self._host(state, name)
            gateway = gateway_for(host.address)
            try:
                wanted = ipaddress.ip_address(address)
                valid = wanted in gateway.network and wanted != gateway.ip
            except ValueError:
                valid = False
            taken = [other for other, one in state.hosts.items() if one.address == address]
            if not valid or taken:
                why = f"is {taken[0]}'s" if taken else f"is not an address of a host in {gateway.network}"
                raise LabError(f"{address} {why}", exit_status=2)
            if host.has_power:
                self._fabric.readdress(name, host.address, address)
            state.hosts[name].address = address

    def plug_in_second(self, name: str) -> str:
        """Add a second uplink, until the host loses power; return the address there."""
        with self._file.change() as state:
            host = self._host(state, name)
            host.entering([])
            return self._fabric.plug_in_second(name, host.address)

    # ---- containers

    def container(self, name: str) -> Container:
        """Return a container for running programs in it. Raises LabError when it does not exist."""
        return self._container(self._file.read(), name)

    def add_container(self, name: str, host: str, attach: Sequence[str], command: Sequence[str] = ()) -> str:
        """Create, attach and start it. Return the output of `netagent attach`."""
        if not _CONTAINER_NAME.fullmatch(name):
            raise LabError(
                f"{name!r} is not a container name: a-z, 0-9, '-' and '_', at most 63", exit_status=2
            )
        with self._file.change() as state:
            if name in state.containers:
                raise LabError(f"there is a container {name} on {state.containers[name].host}", exit_status=4)
            self._host(state, host)
            state.containers[name] = ContainerState(host, list(attach), list(command))
            try:
                return self._container(state, name).start()
            except BaseException:
                del state.containers[name]
                raise

    def remove_container(self, name: str, *, kill: bool = False) -> None:
        """Detach, then remove it; with `kill` the agent is not told."""
        with self._file.change() as state:
            container = self._container(state, name)
            if container.exists:
                if not kill:
                    container.detach()
                container.vanish()
            del state.containers[name]

    # ---- faults

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Drop everything between two hosts, or only from the first to the second."""
        if one == other:
            raise LabError(f"cannot cut {one} from itself: name two hosts", exit_status=2)
        with self._changing_faults(one, other) as faults:
            pairs = [(one, other)] if one_way else [(one, other), (other, one)]
            faults.cuts = sorted({*faults.cuts, *pairs})

    def block(self, host: str, port: int) -> None:
        """Drop TCP and UDP to this port between a host and the others, in both directions, as a firewall would."""
        with self._changing_faults(host) as faults:
            faults.blocks = sorted({*faults.blocks, (host, port)})

    def lose(self, host: str, percent: float) -> None:
        """Drop this share of all packets to and from a host; 0 ends it."""
        with self._changing_faults(host) as faults:
            faults.loss[host] = percent

    def shrink(self, host: str, mtu_bytes: int) -> None:
        """Silently drop larger packets on the cable of a host, as a tunnel on the path would."""
        with self._changing_faults(host) as faults:
            faults.mtu[host] = mtu_bytes

    def heal(self) -> None:
        """Undo all cuts, blocks, losses and shrunken cables."""
        with self._changing_faults() as faults:
            faults.cuts, faults.blocks, faults.loss, faults.mtu = [], [], {}, {}

    @contextmanager
    def _changing_faults(self, *hosts: str) -> Iterator[Faults]:
        with self._file.change() as state:
            plugged = [name for name in state.hosts if self._host(state, name).has_power]
            for name in hosts:
                self._host(state, name)
            yield state.faults
            self._fabric.apply(state.faults, plugged)

    # ---- look-ups

    def _namespaces(self) -> list[str]:
        hosts = self._host_names()
        return [
            name for name in named_namespaces() if name == self._fabric.namespace or hosts.fullmatch(name)
        ]

    def _host_names(self) -> re.Pattern[str]:
        """Return the pattern of the names of this lab's namespaces and control groups."""
        return re.compile(rf"{re.escape(self.folder.name)}-h[0-9]+(-nat)?")

    def _host(self, state: LabState, name: str) -> Host:
        if name not in state.hosts:
            known = ", ".join(state.hosts) or "none"
            raise LabError(f"there is no host {name}; hosts are: {known}", exit_status=2)
        return Host(name, state.hosts[name], self._fabric, self.folder / "hosts" / name)

    def _container(self, state: LabState, name: str) -> Container:
        if name not in state.containers:
            known = ", ".join(state.containers) or "none"
            raise LabError(f"there is no container {name}; containers are: {known}", exit_status=2)
        container = state.containers[name]
        host = self._host(state, container.host)
        return Container(name, container, host, self.folder / "hosts" / host.name)
