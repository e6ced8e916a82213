"""The real resolver process in front of a container runtime's: Docker's rules, and a resolver in place of Docker's.

With the real Docker: tests/runtimes/test_docker_names.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
from fakes import names
from fakes.resolver_process import Container, agent, ended, gone, inside, process_id_of, serve, until

from netagent.datapath.endpoint.dns_redirect import redirected_port
from netagent.datapath.endpoint.netns import opened_netns
from netagent.errors import FailedError
from netagent.model.sandbox import SandboxId
from netagent.projection.resolver_sockets import ResolverSockets
from netagent.resolver.name_table import RowKind
from netagent.resolver.supervisor import Supervisor
from netdns.config import Transport
from netdns.testing import ReceivedQuery, UpstreamDouble

pytestmark = pytest.mark.kernel


class RuntimeResolver:
    """A resolver at a high port in the namespace, and the rules that lead 127.0.0.11 port 53 to it."""

    def __init__(self, container: Container) -> None:
        self.records = {"cache.": "172.18.0.9", "example.com.": "192.0.2.80"}
        self.rcode = dns.rcode.NXDOMAIN
        self.truncate = False
        self.double = inside(container.netns, lambda: UpstreamDouble(self.behave))
        address, port = self.double.address
        for protocol in ("udp", "tcp"):
            rule = f"-d 127.0.0.11/32 -p {protocol} --dport 53 -j DNAT --to-destination {address}:{port}"
            command = ["nsenter", f"--net=/run/netns/{container.netns}", "iptables", "-w", "-t", "nat", "-A"]
            subprocess.run([*command, "OUTPUT", *rule.split()], check=True)

    def behave(self, heard: ReceivedQuery) -> list[tuple[float, bytes]]:
        query = dns.message.from_wire(heard.payload)
        answer = dns.message.make_response(query)
        address = self.records.get(query.question[0].name.to_text())
        if address is None:
            answer.set_rcode(self.rcode)
        else:
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 600, "IN", "A", address))
        if self.truncate and heard.transport is Transport.UDP:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
        return [(0.0, answer.to_wire())]

    @property
    def heard(self) -> list[str]:
        return [dns.message.from_wire(one.payload).question[0].name.to_text() for one in self.double.heard]


async def run_inside(container: Container, command: str) -> None:
    await trio.run_process(["nsenter", f"--net=/run/netns/{container.netns}", *command.split()])


def play(
    run_dir: Path,
    container: Container,
    scenario: Callable[..., Any],
    **options: dict[tuple[RowKind, str], Any],
) -> None:
    """Serve the container behind a runtime's resolver, and play."""

    async def main() -> None:
        async with ended(run_dir), trio.open_nursery() as nursery:
            runtime = RuntimeResolver(container)
            nursery.start_soon(runtime.double.run)
            with trio.fail_after(60):
                async with agent(run_dir) as one:
                    await serve(one, container, behind_runtime=True, **options)
                    await scenario(one, runtime)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_our_names_are_ours_and_all_others_are_the_runtimes(run_dir: Path, container: Container) -> None:
    async def scenario(one: Supervisor, runtime: RuntimeResolver) -> None:
        for _ in range(2):
            assert await container.ask("web-1.app.mesh.internal") == ["10.160.0.11"]
            assert await container.ask("database") == ["10.170.0.21"]
            assert await container.ask_tcp("web-1.app.mesh.internal") == ["10.160.0.11"]
        assert await container.ask_code("nobody.app.mesh.internal") == "NXDOMAIN"
        assert runtime.heard == [], "no name of ours leaves"
        assert await container.ask("cache") == ["172.18.0.9"]
        assert await container.ask("example.com") == ["192.0.2.80"]
        assert await container.ask_tcp("example.com") == ["192.0.2.80"]
        assert await container.ask_code("nobody") == "NXDOMAIN"
        assert await container.ask_code("9.0.18.172.in-addr.arpa", "PTR") == "NXDOMAIN"
        assert runtime.heard[-1] == "9.0.18.172.in-addr.arpa."

    play(run_dir, container, scenario)


def test_what_the_runtime_says_is_not_kept(run_dir: Path, container: Container) -> None:
    async def scenario(one: Supervisor, runtime: RuntimeResolver) -> None:
        assert await container.ask_code("later") == "NXDOMAIN"
        runtime.records["later."] = "172.18.0.7"
        assert await container.ask("later") == ["172.18.0.7"]
        runtime.records["later."] = "172.18.0.8"
        assert await container.ask("later") == ["172.18.0.8"]

    play(run_dir, container, scenario)


def test_what_is_hidden_stays_hidden_though_the_runtime_knows_it(run_dir: Path, container: Container) -> None:
    """Its own containers on our networks have addresses there; an unhealthy one has no name of ours."""

    async def scenario(one: Supervisor, runtime: RuntimeResolver) -> None:
        runtime.records |= {"sick.": "10.160.0.99", "sick.app.": "10.160.0.99", "lost.": "172.18.0.66"}
        assert await container.ask_code("sick") == "NXDOMAIN"
        assert await container.ask_code("sick.app") == "NXDOMAIN"
        assert await container.ask_code("lost") == "NXDOMAIN", "a link never leads to something else"
        assert runtime.heard == ["sick.", "sick.app."]
        assert await container.ask("cache") == ["172.18.0.9"]

    linked = names.sandbox("c", names.APP, names.BACK, links=("nobody:lost",))
    play(run_dir, container, scenario, table=names.world() | dict([linked]))


def test_long_answers_of_the_runtime_come_by_tcp(run_dir: Path, container: Container) -> None:
    async def scenario(one: Supervisor, runtime: RuntimeResolver) -> None:
        runtime.truncate = True
        assert await container.ask("example.com") == ["192.0.2.80"]
        assert [heard.transport for heard in runtime.double.heard] == [Transport.UDP, Transport.TCP]

    play(run_dir, container, scenario)


def test_a_runtime_that_has_no_answer_is_believed(run_dir: Path, container: Container) -> None:
    async def scenario(one: Supervisor, runtime: RuntimeResolver) -> None:
        runtime.rcode = dns.rcode.SERVFAIL
        assert await container.ask_code("example.org") == "SERVFAIL"
        assert await container.ask_code("nobody") == "NXDOMAIN", (
            "no short name of ours is a server's business"
        )

    play(run_dir, container, scenario)


def test_without_the_runtimes_resolver_the_hosts_servers_are_asked(
    run_dir: Path, container: Container
) -> None:
    """Its rules are there and no process listens; then its rules are gone and we hear our own question."""

    async def main() -> None:
        async with ended(run_dir), trio.open_nursery() as nursery:
            runtime = RuntimeResolver(container)
            async with trio.open_nursery() as serving:
                serving.start_soon(runtime.double.run)
                await trio.testing.wait_all_tasks_blocked()
                serving.cancel_scope.cancel()  # closes its sockets
            async with agent(run_dir) as one:
                await serve(one, container, behind_runtime=True)
                for _ in range(2):
                    # The host's resolv.conf names no server: its servers' failure is to be seen at once.
                    with trio.fail_after(2):
                        assert await container.ask_code("example.com") == "SERVFAIL"
                        assert await container.ask_code("cache") == "NXDOMAIN"
                        assert await container.ask("database") == ["10.170.0.21"]
                    await run_inside(container, "iptables -w -t nat -F OUTPUT")
                assert (await one.statistics())["upstream_loops"] > 0
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_container_that_may_not_look_outside_has_the_runtimes_names(
    run_dir: Path, container: Container
) -> None:
    async def scenario(one: Supervisor, runtime: RuntimeResolver) -> None:
        assert await container.ask("cache") == ["172.18.0.9"]
        runtime.rcode = dns.rcode.SERVFAIL
        assert await container.ask_code("example.org") == "REFUSED"

    play(
        run_dir,
        container,
        scenario,
        table=names.world() | dict([names.sandbox("c", names.APP, forward=False)]),
    )


def test_the_runtime_answers_again_when_the_process_is_killed(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with ended(run_dir), trio.open_nursery() as nursery:
            runtime = RuntimeResolver(container)
            runtime.records["database."] = "172.18.0.66"
            nursery.start_soon(runtime.double.run)
            async with agent(run_dir) as one:
                await serve(one, container, behind_runtime=True)
                process_id = process_id_of(one)
                confined_id = (await one.statistics())["process_id"]
                assert await container.ask("database") == ["10.170.0.21"]
            # The agent is away, so that nothing starts another.
            assert await container.ask("database") == ["10.170.0.21"]
            os.kill(process_id, signal.SIGKILL)
            await until(lambda: gone(process_id) and gone(confined_id))
            assert await container.ask("database") == ["172.18.0.66"]
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_next_agent_and_the_next_process_stay_in_front(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with ended(run_dir), trio.open_nursery() as nursery:
            runtime = RuntimeResolver(container)
            nursery.start_soon(runtime.double.run)
            async with agent(run_dir) as one:
                await serve(one, container, behind_runtime=True)
            async with agent(run_dir, release="next") as two:  # replaces the process
                assert await two.publish(names.world())
                assert await two.known_sandboxes() == {"c"}
                await until(lambda: two.status()["starts"] == 1 and two.status()["running"])
                await until_in_front(container)
                assert await container.ask("cache") == ["172.18.0.9"]
                os.kill(process_id_of(two), signal.SIGKILL)
                await until(lambda: two.status()["starts"] == 2)
                await until_in_front(container)
                assert await container.ask("cache") == ["172.18.0.9"]
                await two.remove_sandbox(SandboxId("c"))
                runtime.records["database."] = "172.18.0.66"
                assert await container.ask("database") == ["172.18.0.66"], "nothing of ours is left"
            nursery.cancel_scope.cancel()

    trio.run(main)


async def until_in_front(container: Container) -> None:
    """While the process is away, the runtime answers; it does not know `database`."""
    with trio.fail_after(15):
        while await container.ask("database") != ["10.170.0.21"]:
            await trio.sleep(0.02)


def test_a_sandbox_can_get_a_runtime_later(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with ended(run_dir), trio.open_nursery() as nursery:
            async with agent(run_dir) as one:
                await serve(one, container)
                assert await container.ask_code("cache") == "NXDOMAIN"
                runtime = RuntimeResolver(container)
                nursery.start_soon(runtime.double.run)
                await one.put_before_runtime(SandboxId("c"))
                await one.put_before_runtime(SandboxId("c"))
                assert await container.ask("database") == ["10.170.0.21"]
                assert await container.ask("cache") == ["172.18.0.9"]
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_runtime_answers_nothing_while_port_53_is_given_up(run_dir: Path, container: Container) -> None:
    """As an earlier release left it: our sockets have port 53, and are replaced by such as it is led to."""

    async def main() -> None:
        async with ended(run_dir), trio.open_nursery() as nursery:
            runtime = RuntimeResolver(container)
            nursery.start_soon(runtime.double.run)
            async with agent(run_dir, stop=True) as one:
                await one.add_sandbox(SandboxId("c"), *container.bound()[:2], behind_runtime=True)
                assert await one.publish(names.world())
                asked = []

                async def keep_asking() -> None:
                    while True:
                        assert await container.ask("database") == ["10.170.0.21"]
                        asked.append(1)

                async with trio.open_nursery() as asking:
                    asking.start_soon(keep_asking)
                    await until(lambda: len(asked) > 20)
                    with opened_netns(f"/run/netns/{container.netns}") as netns_fd:
                        await ResolverSockets(one).ensure_listening(
                            SandboxId("c"), netns_fd, behind_runtime=True
                        )
                    before = len(asked)
                    await until(lambda: len(asked) > before + 20)
                    asking.cancel_scope.cancel()
                assert inside(container.netns, redirected_port) == 61053
                assert await container.ask("cache") == ["172.18.0.9"]
                assert runtime.heard == ["cache."]
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_table_that_cannot_be_made_is_said(run_dir: Path, container: Container) -> None:
    """Another program's table stands in the way: the kernel does not let us have it."""

    async def main() -> None:
        await run_inside(container, "nft add table ip netagent")
        async with agent(run_dir, stop=True) as one:
            assert await one.publish(names.world())
            with pytest.raises(FailedError, match=r"sandbox c: cannot redirect queries .*exist"):
                await serve(one, container, behind_runtime=True)
            assert await one.known_sandboxes() == frozenset()
            assert (await one.statistics())["redirects"] == 0

    trio.run(main)
