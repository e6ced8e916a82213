"""The units, under a whole systemd: what README and docs/how-to/install.md promise of them.

h1 of the lab is a machine with systemd, which runs our units as `netagent install systemd` wrote them; h2 has an
agent as the lab starts it, and looks at h1 from outside.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from boot.machine import NETAGENT, ROOT, Machine, booted
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = [pytest.mark.lab, pytest.mark.boot]

KNOWN_S = 15.0
"""A bound on the other host knowing what has changed; it takes some 10 ms, and a second for what has ended."""

IN_PLACE = ("--quiet", "--property=Type=exec")
"""Options of systemd-run, which then returns when the program runs, and in its own namespaces."""

ASK = """
import socket, sys, time
question = bytes.fromhex("1234010000010000000000000677656232323203617070046d65736808696e7465726e616c0000010001")
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(1)
asked = failed = 0
while True:
    asker.sendto(question, ("127.0.0.11", 53))
    asked += 1
    try:
        answer = asker.recv(600)
        failed += answer[7] != 1
    except OSError:
        failed += 1
    with open("/run/asked", "w") as file:
        file.write(f"{asked} {failed}")
    time.sleep(0.005)
"""
"""Asks for web222.app.mesh.internal, for ever, and counts."""

DEEDS = """
import trio
from netagent.integrations.podman.command import Podman

async def check():
    podman = Podman()
    for command, expected in ((("true",), (0, b"")), (("sh", "-c", "echo here; exit 3"), (3, b"here\\n"))):
        done = await podman.execute("web", command)
        assert done == expected, done
    begun = 0
    with trio.fail_after(20.0):
        while begun < 2:
            with trio.move_on_after(3.0) as scope:
                assert await podman.execute("web", ("sleep", "4321")) is None  # the first one is ending
            begun += scope.cancelled_caught
            await trio.sleep(0.1)
    status, output = await podman.execute("web", ("yes",))
    assert (status, len(output)) == (141, 4096), (status, len(output))

trio.run(check)
"""
"""Runs commands in the container `web`: one that succeeds, one that fails, one that hangs, and one that writes for
ever."""


@contextlib.contextmanager
def hosts(tmp_path: Path, count: int) -> Iterator[tuple[Lab, Machine]]:
    """A lab without agents, whose h1 is a machine with systemd."""
    lab = Lab(Path(f"/run/natlab-boot{os.getpid()}"))
    (tmp_path / "machine").mkdir()
    try:
        lab.up(of_hosts(count), agents=False)
        with booted(tmp_path / "machine", f"{lab.folder.name}-h1") as machine:
            yield lab, machine
    finally:
        lab.down()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Machine, Cluster]]:
    """h1 with systemd and a container `client`, h2 with a container `web222`, in the network `app`."""
    with hosts(tmp_path, 2) as (lab, machine), ThreadPoolExecutor(4) as pool:
        with lab.changing("h2") as h2:
            h2.start_agent()
        machine.write("/etc/netagent/netagent.toml", 'name = "h1"\nbind = "192.0.2.1"\ntiming = "local"\n')
        machine.netagent("install", "systemd")
        machine.run("systemctl", "enable", "--now", "netagent.service")
        machine.netagent("init")
        far = Cluster(lab, pool)
        far.netagent("h2", "join", "--token-file", "-", stdin=machine.netagent("invite", "-o", "name"))
        machine.netagent("network", "create", "app")
        machine.run("ip", "netns", "add", "client")
        machine.netagent("attach", "netns:client", "--network", "app", "--name", "client")
        far.wait(lambda: len(far.netagent("h2", "network", "ls")) == 1, KNOWN_S, "h2 lacks the network")
        far.attach("h2", "web222")
        far.wait(lambda: far.endpoint_names("h2") == ["client", "web222"], KNOWN_S, "h2 lacks an endpoint")
        yield machine, far


def resolver(machine: Machine) -> str:
    return machine.run("pgrep", "--full", "netagent.resolver.process").strip()


def main_process(machine: Machine) -> str:
    return machine.show("netagent.service", "MainPID")


def test_names_are_answered_through_restart_kill_stop_hang_and_activation(
    cluster: tuple[Machine, Cluster],
) -> None:
    machine, _ = cluster
    assert "in the cluster mesh" in machine.show("netagent.service", "StatusText")
    assert machine.run("cat", "/etc/netns/client/resolv.conf").startswith("# written by netagent\n")
    assert machine.run("stat", "-c", "%a %G", "/run/netagent/netagent.sock") == "660 netagent\n"
    assert machine.run("stat", "-c", "%a %G", "/run/netagent/netagent-ro.sock") == "660 netagent-ro\n"
    machine.write("/run/ask.py", ASK)
    asking = "ip netns exec client python3 /run/ask.py"
    machine.run("systemd-run", "--quiet", "--unit", "asking", *asking.split())
    machine.wait("test -s /run/asked", 30)
    ours, first = resolver(machine), main_process(machine)

    machine.run("systemctl", "restart", "netagent.service")
    machine.wait("systemctl is-active netagent-shutdown.service", 20)
    second = main_process(machine)
    assert second != first

    # A command that comes while no agent runs waits for the next one, on the socket that systemd keeps.
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "netagent.service")
    assert "in its networks" in machine.netagent("status")
    assert machine.show("netagent.service", "NRestarts") == "1"

    machine.run("systemctl", "stop", "netagent.service")
    assert machine.show("netagent.service", "ActiveState") == "inactive"
    assert "in its networks" in machine.netagent("status")
    assert machine.show("netagent.service", "ActiveState") == "active"

    machine.write("/etc/systemd/system/netagent.service.d/test.conf", "[Service]\nWatchdogSec=2s\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "netagent.service")
    hung = main_process(machine)
    machine.run("kill", "-STOP", hung)
    machine.wait(f"test $(systemctl show -P MainPID netagent.service) -ne {hung}", 20)
    machine.wait("test $(systemctl show -P SubState netagent.service) = running", 20)
    machine.wait("journalctl -u netagent.service | grep -q 'Fatal Python error: Aborted'", 20)

    assert resolver(machine) == ours
    asked, failed = map(int, machine.run("cat", "/run/asked").split())
    assert asked > 100
    assert failed == 0


def test_a_unit_is_attached_by_its_name(cluster: tuple[Machine, Cluster]) -> None:
    machine, far = cluster
    for unit, private in (("web", "yes"), ("open", "no")):
        network = f"--property=PrivateNetwork={private}"
        machine.run("systemd-run", *IN_PLACE, f"--unit={unit}", network, "sleep", "1000000")
    machine.netagent("attach", "unit:web", "--network", "app")
    far.wait(lambda: far.answers("web222", "web.app.mesh.internal") != [], KNOWN_S, "web is not found")
    pid = machine.show("web.service", "MainPID")
    assert "eth0" in machine.run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-br", "addr")

    for unit, status, word in (("open", 4, "PrivateNetwork=yes"), ("nobody", 1, "no unit 'nobody'")):
        refused = machine.try_run(NETAGENT, "attach", f"unit:{unit}", "--network", "app")
        assert refused.returncode == status, refused
        assert word in refused.stderr

    machine.run("systemctl", "stop", "web.service")
    far.wait(lambda: far.answers("web222", "web.app.mesh.internal") == [], KNOWN_S, "web is still found")


ASK_FOR_EVER = """
while sleep 0.2; do
    curl -s -m 3 -w ' %{remote_ip}' "http://$1:8080/" >/run/new && mv /run/new /run/said
done
"""
WHOAMI = str(Path(__file__).parents[1] / "lab" / "whoami.py")


def test_a_unit_is_led_from_a_services_address_to_its_replicas(cluster: tuple[Machine, Cluster]) -> None:
    """All of it under systemd's own control groups, which are of version 2 alone."""
    machine, far = cluster
    options = ("--service", "shop", "--label", "netagent.address=true")
    replica = far.attach("h2", "shop1", *options, command=("python3", WHOAMI, "8080"))
    found: list[str] = []

    def is_own() -> bool:
        found[:] = far.ask("web222", "shop.app.mesh.internal").data
        return len(found) == 1 and found[0] not in replica["addresses"]

    far.wait(is_own, KNOWN_S, lambda: f"the other host is answered {found}")
    machine.write("/run/ask", ASK_FOR_EVER)
    unit = ("--unit=cli", "--property=PrivateNetwork=yes")
    machine.run("systemd-run", *IN_PLACE, *unit, "sh", "/run/ask", found[0])
    machine.netagent("attach", "unit:cli", "--network", "app")
    far.wait(lambda: "cli" in far.endpoint_names("h2"), KNOWN_S, "h2 does not know the unit")
    (own,) = (one for one in far.held("h2") if one["name"] == "cli")
    machine.wait(f"grep -q '{own['addresses'][0]} {found[0]}' /run/said", KNOWN_S)


GRACEFUL = "trap 'sleep 5; exit 0' TERM; while true; do sleep 1000000 & wait; done"
"""A program that takes five seconds to stop."""


def test_names_lead_away_from_a_unit_that_systemd_is_stopping(cluster: tuple[Machine, Cluster]) -> None:
    machine, far = cluster

    def started() -> None:
        unit = ("--unit=web@1", "--property=PrivateNetwork=yes", "--property=KillMode=mixed")
        machine.run("systemd-run", *IN_PLACE, *unit, "sh", "-c", GRACEFUL)
        machine.netagent("attach", "unit:web@1", "--network", "app", "--name", "web")
        far.wait(lambda: far.answers("web222", "web.app.mesh.internal") != [], KNOWN_S, "web is not found")

    def stops() -> None:
        machine.run("systemctl", "stop", "--no-block", "web@1.service")
        far.wait(lambda: far.answers("web222", "web.app.mesh.internal") == [], KNOWN_S, "web is still found")
        assert machine.show("web@1.service", "ActiveState") == "deactivating"
        [web] = [one for one in far.netagent("h2", "endpoints", "--local") if one["name"] == "web"]
        assert (web["state"], web["drain"]["by"]) == ("stopping", "stop")
        machine.wait("test $(systemctl show -P ActiveState web@1.service) = inactive", 20)
        far.wait(lambda: "web" not in far.endpoint_names("h2"), KNOWN_S, "its endpoint stays")

    started()
    stops()
    started()
    machine.run("systemctl", "restart", "dbus.service")
    on_the_bus = f"busctl list --no-pager --no-legend | grep -q ' {main_process(machine)} '"
    machine.wait(on_the_bus, 20)
    stops()


def test_a_unit_in_a_named_namespace_drains_itself_as_the_guide_says(
    cluster: tuple[Machine, Cluster],
) -> None:
    machine, far = cluster
    guide = (ROOT / "docs/how-to/runtimes/plain-hosts.md").read_text()
    own = re.findall(r"^Exec(?:StartPost|Stop)=-netagent .*web.*$", guide, re.MULTILINE)
    assert len(own) == 2
    machine.run("ip", "netns", "add", "web")
    machine.netagent("attach", "netns:web", "--network", "app")
    lines = "\n".join(own).replace("netagent", NETAGENT)
    service = f"""[Service]\nNetworkNamespacePath=/run/netns/web\nExecStart=sh -c "{GRACEFUL}"\n{lines}\n"""
    machine.write("/etc/systemd/system/web.service", service)
    machine.run("systemctl", "daemon-reload")
    for _ in range(2):
        machine.run("systemctl", "start", "web.service")
        far.wait(lambda: far.answers("web222", "web.app.mesh.internal") != [], KNOWN_S, "web is not found")
        machine.run("systemctl", "stop", "--no-block", "web.service")
        far.wait(lambda: far.answers("web222", "web.app.mesh.internal") == [], KNOWN_S, "web is still found")
        assert machine.show("web.service", "ActiveState") == "deactivating"
        machine.run("systemctl", "stop", "web.service")


def test_a_machine_of_nspawn_is_attached_by_its_name(cluster: tuple[Machine, Cluster]) -> None:
    machine, far = cluster
    links = "for one in bin sbin lib lib64; do ln -s usr/$one /var/box/$one; done"
    machine.run("sh", "-c", f"mkdir -p /var/box/usr /var/box/etc && touch /var/box/etc/os-release && {links}")
    options = (
        "--machine=box",
        "--private-network",
        "--bind-ro=/usr",
        "--resolv-conf=off",
        "--directory=/var/box",
    )
    nspawn = ("systemd-nspawn", "--quiet", *options, "sleep", "1000000")
    machine.run("systemd-run", "--quiet", "--unit=box", *nspawn)
    machine.wait("machinectl show --property=Leader box", 20)
    machine.netagent("attach", "machine:box", "--network", "app")
    far.wait(lambda: far.answers("web222", "box.app.mesh.internal") != [], KNOWN_S, "box is not found")
    machine.run("machinectl", "terminate", "box")
    far.wait(lambda: far.answers("web222", "box.app.mesh.internal") == [], KNOWN_S, "box is still found")


def test_the_agent_does_all_it_must_behind_the_restrictions(cluster: tuple[Machine, Cluster]) -> None:
    machine, far = cluster
    # The unit leaves the resolver process what it needs to give up everything.
    assert "more rights" not in machine.run("cat", "/run/netagent/resolver.log")
    users = machine.run("ps", "-o", "uid=", "-p", ",".join(resolver(machine).split())).split()
    assert sorted(users) == ["0", "65530"]
    far.wait(lambda: far.answers("web222", "client.app.mesh.internal") != [], KNOWN_S, "client is not found")
    assert "none" in next(
        line for line in machine.netagent("status").splitlines() if line.startswith("drift:")
    )
    # A namespace of a process that has other privileges, and one by its path.
    machine.run(
        "systemd-run",
        *IN_PLACE,
        "--unit=other",
        "-p",
        "User=nobody",
        "-p",
        "PrivateNetwork=yes",
        "sleep",
        "1000000",
    )
    process = machine.show("other.service", "MainPID")
    machine.netagent("attach", f"pid:{process}", "--network", "app", "--name", "other")
    machine.run("ip", "netns", "add", "second")
    machine.netagent("attach", "/run/netns/second", "--network", "app", "--name", "second")
    far.wait(lambda: far.answers("web222", "second.app.mesh.internal") != [], KNOWN_S, "second is not found")
    address = far.answers("web222", "second.app.mesh.internal")[0]
    assert far.pings("web222", address)
    machine.netagent("detach", "second")
    machine.netagent("network", "create", "further")
    machine.run("systemctl", "kill", "--signal=HUP", "--kill-whom=main", "netagent.service")
    machine.wait(
        "journalctl -u netagent.service NETAGENT_EVENT=agent | grep -q 'read the configuration again'", 20
    )
    assert "Permission denied" not in machine.journal()
    assert "not permitted" not in machine.journal()


def test_a_cluster_encrypts_behind_the_restrictions_of_the_unit(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (_, machine):
        machine.write("/etc/netagent/netagent.toml", 'name = "h1"\nbind = "192.0.2.1"\ntiming = "local"\n')
        machine.netagent("install", "systemd")
        machine.run("systemctl", "enable", "--now", "netagent.service")
        machine.netagent("init", "--encrypt", "--network", "app")
        assert "encrypted: 0 of 0 paths (wireguard-go)" in machine.netagent("status")
        process = machine.run("pgrep", "--exact", "wireguard-go")
        machine.run("systemctl", "restart", "netagent.service")
        machine.wait(f"{NETAGENT} status | grep -q '0 of 0 paths (wireguard-go)'", 20)
        assert machine.run("pgrep", "--exact", "wireguard-go") == process, "it outlives the agent"
        # A new process opens the device anew; and no other device than that is open to the unit.
        machine.run("kill", "-KILL", process.strip())
        machine.wait(f"pgrep --exact wireguard-go | grep -qv '^{process.strip()}$'", 20)
        machine.wait(f"{NETAGENT} status | grep -q '0 of 0 paths (wireguard-go)'", 20)
        assert "not permitted" not in machine.journal()


def test_a_shutdown_withdraws_the_names_before_anything_stops(cluster: tuple[Machine, Cluster]) -> None:
    machine, far = cluster
    seen = Path(f"/proc/{machine.process_id}/root/var/container-stops").parent
    unit = (
        "[Unit]\nAfter=netagent.service\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStopSec=60s\n"
        "ExecStart=/bin/true\nExecStop=/bin/touch /var/container-stops\n"
        "ExecStop=/bin/sh -c 'until test -e /var/go-on; do sleep 0.1; done'\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    machine.write("/etc/systemd/system/a-container.service", unit)
    machine.run("systemctl", "enable", "--now", "a-container.service")
    machine.run("systemctl", "restart", "netagent.service")
    far.wait(lambda: far.answers("web222", "client.app.mesh.internal") != [], KNOWN_S, "client is not found")
    machine.run("systemctl", "poweroff", "--no-wall")
    far.wait((seen / "container-stops").exists, 30, "the machine does not go down")
    # The container has just begun to stop, and the agent still runs: no name leads there any more.
    assert far.answers("web222", "client.app.mesh.internal") == []
    assert machine.try_run("systemctl", "is-active", "netagent.service").stdout == "active\n"
    machine.write("/var/go-on", "")
    far.wait(lambda: not machine.is_on, 30, "the machine stays on")


def test_docker_finds_its_plug_in_listening_whatever_starts_first(cluster: tuple[Machine, Cluster]) -> None:
    machine, _ = cluster
    answer = machine.netagent("install", "docker")
    assert "ran systemctl try-restart netagent.service" in answer
    assert machine.show("netagent-docker.socket", "ActiveState") == "active"
    assert "netagent-docker.socket" in machine.show("netagent.service", "TriggeredBy")
    assert machine.run("stat", "-c", "%a", "/run/docker/plugins/netagent.sock") == "600\n"
    assert "docker.service" in machine.show("netagent-docker.socket", "Before")
    machine.run("iptables", "-N", "DOCKER-USER")
    rule = ("-i", "na-+", "-m", "physdev", "--physdev-is-bridged", "-m", "comment", "--comment", "netagent")
    machine.run("iptables", "-I", "DOCKER-USER", *rule, "-j", "ACCEPT")
    machine.netagent("uninstall", "docker")
    assert machine.run("iptables", "-S", "DOCKER-USER") == "-N DOCKER-USER\n"
    assert machine.try_run("test", "-e", "/run/docker/plugins/netagent.sock").returncode == 1
    assert machine.show("netagent.service", "ActiveState") == "active"


def test_networkd_leaves_our_devices_alone(tmp_path: Path) -> None:
    everything = "[Match]\nKind=bridge\n[Network]\nAddress=203.0.113.9/24\nConfigureWithoutCarrier=yes\n"
    with hosts(tmp_path, 1) as (_, machine):
        machine.write("/etc/systemd/network/50-everything.network", everything)
        machine.netagent("install", "systemd")
        machine.run("systemctl", "unmask", "systemd-networkd.service")
        machine.run("systemctl", "start", "systemd-networkd.service")
        machine.run("ip", "link", "add", "na-8388608", "type", "bridge")
        machine.run("ip", "link", "add", "other", "type", "bridge")
        machine.wait("ip address show dev other | grep -q 203.0.113.9", 20)
        machine.wait("networkctl list --no-legend na-8388608 | grep -q unmanaged", 20)
        assert "203.0.113.9" not in machine.run("ip", "address", "show", "dev", "na-8388608")


def test_networkmanager_leaves_our_devices_alone(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (_, machine):
        machine.netagent("install", "systemd")
        machine.run("systemctl", "unmask", "NetworkManager.service")
        machine.run("systemctl", "start", "NetworkManager.service")
        ours, others = ("nv12345678", "nc12345678"), ("other1", "other2")
        for device, peer in (ours, others):
            machine.run("ip", "link", "add", device, "type", "veth", "peer", "name", peer)
        before = [machine.run("ip", "-oneline", "link", "show", device) for device in ours]
        # Where there is no udev to say otherwise, it takes every veth for a cable.
        states = "nmcli --terse --fields DEVICE,STATE device"
        machine.wait(f"{states} | grep -Eq '^other1:(connect|disconnect)'", 20)
        for device in ours:
            machine.wait(f"{states} | grep -q '^{device}:unmanaged'", 20)
        assert [machine.run("ip", "-oneline", "link", "show", device) for device in ours] == before


def test_podman_can_learn_of_networks_behind_the_restrictions(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (_, machine):
        machine.netagent("install", "systemd")
        machine.netagent("install", "podman")
        units = "/etc/systemd/system"
        program = "podman --runtime runc network"
        deeds = "".join(
            f"ExecStart={program} {words}\n" for words in ("create app", "ls", "inspect app", "rm app")
        )
        machine.run("cp", "-r", f"{units}/netagent.service.d", f"{units}/deeds.service.d")
        machine.run("cp", f"{units}/netagent.service", f"{units}/deeds.service")
        # As netagent.service in all but what it runs.
        oneshot = f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n{deeds}"
        machine.write(f"{units}/deeds.service.d/zz.conf", oneshot)
        machine.run("mkdir", "-p", "/var/lib/containers", "/etc/containers")
        machine.run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/containers")  # no overlay over an overlay
        machine.run("systemctl", "daemon-reload")
        done = machine.try_run("systemctl", "start", "deeds.service")
        assert done.returncode == 0, machine.run("journalctl", "--unit", "deeds.service", "--no-pager")


def test_podman_runs_commands_of_checks_in_spite_of_the_restrictions(tmp_path: Path) -> None:
    """In a unit with the agent's restrictions, which keep `podman exec` itself from entering a container."""
    with hosts(tmp_path, 1) as (_, machine):
        machine.netagent("install", "systemd")
        machine.netagent("install", "podman")
        units = "/etc/systemd/system"
        machine.run("cp", "-r", f"{units}/netagent.service.d", f"{units}/deeds.service.d")
        machine.run("cp", f"{units}/netagent.service", f"{units}/deeds.service")
        machine.write("/run/deeds.py", DEEDS)
        program = f"{Path(NETAGENT).with_name('python')} /run/deeds.py"
        oneshot = f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart={program}\n"
        oneshot += "PrivateTmp=no\n"  # the checkout may lie in /tmp
        machine.write(f"{units}/deeds.service.d/zz.conf", oneshot)
        machine.run("mkdir", "-p", "/var/lib/containers", "/etc/containers", "/var/box")
        machine.run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/containers")  # no overlay over an overlay
        machine.write("/etc/containers/containers.conf", '[engine]\nruntime = "runc"\n')
        folders = "for one in usr bin sbin lib lib64 etc proc sys dev tmp run; do mkdir /var/box/$one; done"
        machine.run("sh", "-c", folders)
        mounts = [f"--volume=/{one}:/{one}:ro" for one in ("usr", "bin", "sbin", "lib", "lib64")]
        options = ("--detach", "--name=web", "--network=none", "--pids-limit=0", "--user=65534", *mounts)
        machine.run("podman", "run", *options, "--rootfs", "/var/box", "sleep", "1000000")
        machine.run("systemctl", "daemon-reload")
        done = machine.try_run("systemctl", "start", "deeds.service")
        journal = machine.run("journalctl", "--unit", "deeds.service", "--no-pager", "--output", "cat")
        assert done.returncode == 0, journal
        assert machine.try_run("pgrep", "-fx", "sleep 4321").returncode == 1
        machine.run("podman", "rm", "--force", "--time", "0", "web")


def test_uninstall_leaves_the_host_as_it_was(tmp_path: Path) -> None:
    folders = "/etc /opt /usr/lib/NetworkManager /usr/lib/systemd /usr/libexec"
    look = (
        f"find {folders} -type f -exec sha256sum {{}} +; find {folders} ! -type f -printf '%p %y %m %l\\n'; "
        "nft list ruleset; sysctl --all --pattern '^net' | grep -v nf_conntrack_count"
    )
    with hosts(tmp_path, 1) as (_, machine):
        before = machine.run("sh", "-c", look).splitlines()
        for part in ("systemd", "docker", "podman", "cni"):
            machine.netagent("install", part)
        machine.run("systemctl", "enable", "--now", "netagent.service")
        for part in ("cni", "podman", "docker", "systemd"):
            machine.netagent("uninstall", part)
        assert machine.show("netagent.service", "LoadState") == "not-found"
        after = machine.run("sh", "-c", look).splitlines()
        # The group stays, because people may be members of it.
        of_group = re.compile(r".*/etc/g(roup|shadow)-?$")
        assert [line for line in sorted(set(before) ^ set(after)) if not of_group.match(line)] == []


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    subprocess.run([NETAGENT, "install", "systemd", "--root", str(tmp_path)], check=True, timeout=30)
    units = tmp_path / "etc/systemd/system"
    for unit in units.iterdir():
        unit.write_text(unit.read_text().replace("/usr/bin/netagent", "/usr/bin/true"))
    analyze = ["systemd-analyze", "verify", "--man=no"]
    done = subprocess.run(
        [*analyze, *units.iterdir()], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if "netagent" in line] == []
    # 0 is a program that may do nothing, 100 one that may do all. A network agent can't be far below 40. CAP_KILL, by
    # which a part of the resolver is killed that hangs, and /dev/net/tun count for more than what they are used for.
    analyze = ["systemd-analyze", "security", "--offline=true", "--threshold=41"]
    done = subprocess.run(
        [*analyze, units / "netagent.service"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout[-300:]
