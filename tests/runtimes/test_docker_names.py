"""Our resolver in front of the real Docker's, in a container on a network that a user defined."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from fakes import names
from fakes.resolver_process import agent, children_of, ended, gone, until
from harness.namespaces import NamespaceFactory
from runtimes.lone_docker import LoneDocker

from netagent.datapath.endpoint.netns import make_resolver_sockets, opened_netns, run_in_netns
from netagent.model.sandbox import SandboxId

pytestmark = pytest.mark.runtimes

BOX = SandboxId("c")
NAME_SERVER = """
import random, socket, time, trio
from netdns import constants, rdata
from netdns.resolver import Resolver
from netdns.server import Server
from netdns.testing import TableSource
source = TableSource("com", "org")
source.put("example.com", constants.A, [rdata.a("192.0.2.80")])
source.put("long.example.com", constants.TXT, [rdata.txt(b"x" * 250) for _ in range(8)])
server = Server(Resolver(source=source, rng=random.SystemRandom(), now=time.monotonic()))
udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
for one in (udp, tcp):
    one.bind(("192.0.2.53", 53))
server.add_listener("all", udp, tcp)
trio.run(server.run)
"""
"""What resolv.conf of the host names."""


@pytest.fixture
def docker(namespaces: NamespaceFactory, tmp_path: Path) -> Iterator[LoneDocker]:
    one = LoneDocker(namespaces("docker").name, tmp_path, "--live-restore")
    server = None
    try:
        one.run("ip link set lo up")
        one.run("ip addr add 192.0.2.53/32 dev lo")
        server = one.begin(sys.executable, "-c", NAME_SERVER)
        one.start()
        one.docker("network", "create", "own")
        for name in ("asker", "cache"):
            one.docker("run", "-d", "--network", "own", "--name", name, "lab", "sleep", "1000000")
        # As our networks are to Docker: it knows who is there, and not whom we hide.
        one.docker("network", "create", "--subnet", "10.160.0.0/20", "app")
        one.docker("network", "connect", "app", "asker")
        one.docker("run", "-d", "--network", "app", "--name", "sick", "lab", "sleep", "1000000")
        yield one
    finally:
        one.close()
        if server is not None:
            server.kill()
            server.wait()


class Asker:
    """The container, asked by busybox's nslookup with the resolv.conf that Docker gave it."""

    def __init__(self, docker: LoneDocker) -> None:
        self.pid = docker.pid("asker")
        self.cache = docker.docker("inspect", "-f", "{{.NetworkSettings.Networks.own.IPAddress}}", "cache")

    async def ask(self, name: str) -> str:
        """The addresses, or what it says in their place."""
        inside = ["nsenter", f"--target={self.pid}", "--all", "nslookup", "-type=a", name]
        done = await trio.run_process(inside, capture_stdout=True, capture_stderr=True, check=False)
        text = done.stdout.decode()
        lines = [line for line in text.splitlines()[3:] if line]
        found = [line.split()[-1] for line in lines if line.startswith("Address")]
        return " ".join(found) or text

    async def ask_txt(self, name: str) -> int:
        """How many TXT records there are; more than a datagram holds."""
        inside = ["nsenter", f"--target={self.pid}", "--net", "dig", "@127.0.0.11", "+short", "TXT", name]
        done = await trio.run_process(inside, capture_stdout=True)
        return len(done.stdout.splitlines())


def start_process_beside(docker: LoneDocker, run_dir: Path) -> None:
    """The agent would start it; but this one's upstream servers are those of the namespace that dockerd is in."""
    run_dir.mkdir()
    (run_dir / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    options = f"--run-dir {run_dir} --release test --resolv-conf {run_dir}/resolv.conf --detach"
    docker.run(f"{sys.executable} -P -m netagent.resolver.process {options}")


async def all_are_answered(asker: Asker) -> None:
    assert await asker.ask("web-1.app.mesh.internal") == "10.160.0.11"
    assert await asker.ask("database") == "10.170.0.21", "our short name, by Docker's resolv.conf"
    assert await asker.ask("cache") == asker.cache
    assert await asker.ask("example.com") == "192.0.2.80"
    assert await asker.ask_txt("long.example.com") == 8
    assert "NXDOMAIN" in await asker.ask("nobody.example.com")
    assert "NXDOMAIN" in await asker.ask("sick")
    assert "NXDOMAIN" in await asker.ask("sick.app")


def test_a_container_with_a_dns_server_of_its_own_has_names_all_the_same(
    docker: LoneDocker, tmp_path: Path
) -> None:
    """It is there first: httpd has port 53 by TCP, and a socket of ours in its place by UDP."""

    async def main() -> None:
        run_dir = tmp_path / "names"
        asker = Asker(docker)
        docker.docker("exec", "-d", "asker", "httpd", "-f", "-p", "53")
        listeners = ["nsenter", f"--target={asker.pid}", "--net", "ss", "-Hlnt", "sport", "=", ":53"]
        await until(lambda: subprocess.run(listeners, check=True, capture_output=True).stdout != b"")
        start_process_beside(docker, run_dir)
        async with ended(run_dir), agent(run_dir) as one:
            with opened_netns(f"/proc/{asker.pid}/ns/net") as netns_fd:
                own = await run_in_netns(netns_fd, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
                with own:
                    own.bind(("::", 53))
                    own.setblocking(False)
                    await one.add_sandbox(BOX, *await make_resolver_sockets(netns_fd), behind_runtime=True)
                    assert await one.publish(names.world())
                    await all_are_answered(asker)
                    assert (await one.statistics())["redirects"] == 1
                    with pytest.raises(BlockingIOError):
                        own.recv(4096)
                    await one.remove_sandbox(BOX)
                    assert await asker.ask("cache") == asker.cache, "Docker answers again"

    trio.run(main)


def test_ours_dockers_and_the_worlds_names(docker: LoneDocker, tmp_path: Path) -> None:
    async def main() -> None:
        run_dir = tmp_path / "names"
        asker = Asker(docker)
        assert await asker.ask("cache") == asker.cache
        assert (await asker.ask("sick")).startswith("10.160.")
        start_process_beside(docker, run_dir)
        async with ended(run_dir):
            async with agent(run_dir) as one:
                with opened_netns(f"/proc/{asker.pid}/ns/net") as netns_fd:
                    await one.add_sandbox(BOX, *await make_resolver_sockets(netns_fd), behind_runtime=True)
                assert await one.publish(names.world())
                process_id = one.status()["process_id"]
                assert isinstance(process_id, int)
                await all_are_answered(asker)

                docker.stop(signal.SIGKILL)
                assert await asker.ask("database") == "10.170.0.21"
                assert await asker.ask("example.com") == "192.0.2.80", "by the host's servers"
                assert "NXDOMAIN" in await asker.ask("cache"), "no server knows it now"
                docker.start()  # its resolver has another port now
                await all_are_answered(asker)

            # The agent is away, so that nothing starts another process.
            children = children_of(process_id)
            os.kill(process_id, signal.SIGKILL)
            # The part that answers ends a moment after its broker, and what is asked meanwhile is lost.
            await until(lambda: all(map(gone, (process_id, *children))))
            assert await asker.ask("cache") == asker.cache
            assert await asker.ask("example.com") == "192.0.2.80"
            assert "NXDOMAIN" in await asker.ask("database")

    trio.run(main)
