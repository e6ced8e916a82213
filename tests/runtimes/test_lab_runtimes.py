"""The lab's own part: Docker and Podman on its hosts, with their own networks, no agents, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from netlab import cgroups
from netlab.lab import Lab
from netlab.process import ProcessId
from netlab.topology import of_hosts

pytestmark = pytest.mark.runtimes

PROGRAMS_OF_THE_MACHINE = ("-v", "/usr:/usr:ro")


def processes_of(lab: Lab) -> list[ProcessId]:
    """Whatever lives in the control groups of the lab's hosts."""
    files = [file for group in cgroups.named(lab._host_names()) for file in group.rglob("cgroup.procs")]
    return [ProcessId.of(int(pid)) for file in files for pid in file.read_text().split()]


def machine_mounts(lab: Lab) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if lab.folder.name in line]


@pytest.fixture
def lab(new_lab: Callable[[], Lab]) -> Lab:
    lab = new_lab()
    lab.up(of_hosts(2), agents=False)
    return lab


def test_docker_with_its_own_network(lab: Lab) -> None:
    with lab.changing("h1") as host:
        host.docker.start([])
    h1 = lab.host("h1")
    h1.must(["docker", "network", "create", "bridged"])
    h1.must(["docker", "run", "-d", "--network", "bridged", "--name", "web", "lab"])
    inside = ["docker", "run", "--rm", "--network", "bridged", "lab"]
    assert "Address: 172." in h1.must([*inside, "nslookup", "web"])
    assert "1 packets received" in h1.must([*inside, "ping", "-c", "1", "web"])
    h1.must(["docker", "run", "--rm", *PROGRAMS_OF_THE_MACHINE, "lab", "curl", "--version"])
    assert lab.host("h2").run(["docker", "ps"]).status != 0, "the other host has no dockerd"


def test_containers_outlive_dockerd_and_not_their_host(lab: Lab) -> None:
    with lab.changing("h1") as host:
        host.docker.start(["--live-restore"])
        host.must(["docker", "run", "-d", "--restart", "always", "--name", "web", "lab"])
        started = "{{.State.StartedAt}}"
        before = host.must(["docker", "inspect", "-f", started, "web"])
        host.docker.kill()
        host.docker.start(["--live-restore"])
        assert host.must(["docker", "inspect", "-f", started, "web"]) == before
    lab.power_off("h1")
    assert lab.power_on("h1") == []
    h1 = lab.host("h1")
    assert h1.docker.running
    assert h1.docker.options == ["--live-restore"]
    assert h1.must(["docker", "inspect", "-f", started, "web"]) != before


def test_podman_with_its_own_network(lab: Lab) -> None:
    h2 = lab.host("h2")
    h2.podman.prepare()
    h2.must(["podman", "network", "create", "bridged"])
    h2.must(["podman", "run", "-d", "--network", "bridged", "--name", "web", "lab"])
    inside = ["podman", "run", "--rm", "--network", "bridged", "lab"]
    assert "Address: 10." in h2.must([*inside, "nslookup", "web.dns.podman"])
    assert "1 packets received" in h2.must([*inside, "ping", "-c", "1", "web"])
    h2.must(["podman", "pod", "create", "--name", "pod"])
    h2.must(["podman", "run", "-d", "--pod", "pod", "lab"])


def test_nothing_of_the_runtimes_is_left(lab: Lab) -> None:
    for host in ("h1", "h2"):
        with lab.changing(host) as changing:
            changing.docker.start([])
    h1, h2 = lab.host("h1"), lab.host("h2")
    h2.podman.prepare()
    h1.must(["docker", "run", "-d", "--name", "web", "lab"])
    h2.must(["podman", "run", "-d", "--name", "web", "lab"])
    running = processes_of(lab)
    assert len(running) >= 6, "two keepers, dockerds, containerds, and containers"
    (lab.folder / "state.json").unlink()
    lab.down()
    assert lab.remains() == []
    assert not any(process.alive for process in running)
    assert machine_mounts(lab) == []
