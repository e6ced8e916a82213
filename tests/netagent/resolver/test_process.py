"""The real resolver process, with sockets in throw-away network namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dns.message
import msgpack
import pytest
import trio
import trio.testing
from fakes import names
from fakes.resolver_process import (
    BOUND_S,
    Container,
    agent,
    children_of,
    ended,
    gone,
    inside,
    process_id_of,
    serve,
    supervisor,
    until,
)

from netagent.datapath.endpoint import dns_redirect
from netagent.model.sandbox import SandboxId
from netagent.resolver import supervisor as supervisor_module
from netagent.resolver.channel import SocketChannel, connect
from netagent.resolver.protocol import (
    SOCKET_NAME,
    Count,
    Refused,
    Statistics,
    parse_reply_untrusted,
    request_bytes,
)
from netagent.resolver.system.launch import start_process

pytestmark = pytest.mark.kernel


def test_names_are_answered_over_both_transports(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            assert await container.ask("web.app.mesh.internal") == ["10.160.0.11", "10.160.1.12"]
            assert await container.ask("database") == ["10.170.0.21"]
            assert await container.ask_tcp("web-1.app.mesh.internal") == ["10.160.0.11"]
            process_id = process_id_of(one)
            assert (await one.statistics())["sandboxes"] == 1
        assert gone(process_id)

    trio.run(main)


def test_answers_go_on_without_the_agent_and_the_next_agent_adopts(
    run_dir: Path, container: Container
) -> None:
    async def main() -> None:
        async with ended(run_dir):
            async with agent(run_dir) as one:
                await serve(one, container)
                first = one.status()["process_id"]
            assert await container.ask("web-1.app.mesh.internal") == ["10.160.0.11"]
            async with agent(run_dir) as two:
                assert await two.known_sandboxes() == {"c"}
                assert two.status()["process_id"] == first
                assert two.status()["starts"] == 0
                # An agent that has just started knows nothing yet, and takes nothing away.
                assert await container.ask("web-1.app.mesh.internal") == ["10.160.0.11"]
                table = names.world() | dict([names.endpoint(50, "new", "10.160.0.50")])
                del table[names.endpoint(4, "dup")[0]]
                assert await two.publish(table)
                assert await container.ask("new.app.mesh.internal") == ["10.160.0.50"]
                assert await container.ask("dup.app.mesh.internal") == []

    trio.run(main)


def test_no_query_is_lost_while_agents_come_and_go(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        asked = []

        async def keep_asking(done: trio.Event) -> None:
            while not done.is_set():
                assert await container.ask("web-1.app.mesh.internal") == ["10.160.0.11"]
                asked.append(1)
                await trio.sleep(0.005)

        async with ended(run_dir), trio.open_nursery() as nursery:
            async with agent(run_dir) as one:
                await serve(one, container)
            done = trio.Event()
            nursery.start_soon(keep_asking, done)
            for _ in range(3):
                async with agent(run_dir) as one:
                    assert await one.publish(names.world())
            before = len(asked)
            await until(lambda: len(asked) > before)
            done.set()

    trio.run(main)


def test_a_killed_process_comes_back_with_its_sockets_and_loses_no_query(
    run_dir: Path, container: Container
) -> None:
    async def main() -> None:
        async with agent(run_dir) as one:
            await serve(one, container)
        # The agent that has to bring the sockets back is not the one that was given them.
        async with agent(run_dir, stop=True) as two:
            assert await two.publish(names.world())
            assert await two.known_sandboxes() == {"c"}
            killed = process_id_of(two)
            os.kill(killed, signal.SIGKILL)
            # Asked while no process is there, or while the part that answers dies: no query is lost.
            assert await container.ask("database") == ["10.170.0.21"]
            await until(lambda: two.status()["process_id"] not in (killed, None))
            assert await container.ask("database") == ["10.170.0.21"]
            assert two.status()["starts"] == 1

    trio.run(main)


@pytest.mark.parametrize("hangs", ["the part that answers", "its broker"])
def test_a_process_that_hangs_is_replaced(
    run_dir: Path, container: Container, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    monkeypatch.setattr(supervisor_module, "_SIGN_OF_LIFE_S", 1.5)

    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            hung = process_id_of(one)
            (answers,) = children_of(hung)
            os.kill(hung if hangs == "its broker" else answers, signal.SIGSTOP)
            await until(lambda: one.status()["process_id"] not in (hung, None))
            assert await container.ask("database") == ["10.170.0.21"]
            assert gone(hung)
            assert gone(answers)

    trio.run(main)


def test_another_release_replaces_the_process_and_keeps_the_sockets(
    run_dir: Path, container: Container
) -> None:
    async def main() -> None:
        async with agent(run_dir, release="old") as one:
            await serve(one, container)
            old = process_id_of(one)
        async with agent(run_dir, release="new", stop=True) as two:
            assert await two.publish(names.world()) or await two.publish(names.world())
            assert await two.known_sandboxes() == {"c"}
            assert two.status()["process_id"] != old
            assert gone(old)
            assert await container.ask("database") == ["10.170.0.21"]

    trio.run(main)


def test_a_removed_sandbox_has_no_sockets_left(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            await one.remove_sandbox(SandboxId("c"))
            with pytest.raises(ConnectionRefusedError):
                await container.ask("database")
            container.bound().close()  # the address is free again
            assert inside(container.netns, dns_redirect.redirected_port) is None
            await one.remove_sandbox(SandboxId("c"))
            assert await one.known_sandboxes() == frozenset()

    trio.run(main)


def test_queries_wait_for_the_first_table(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one, trio.open_nursery() as nursery:
            await one.add_sandbox(SandboxId("c"), *container.pair())
            answers = []

            async def ask() -> None:
                answers.append(await container.ask("database"))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert not answers
            assert await one.publish(names.world())
            await until(lambda: answers == [["10.170.0.21"]])

    trio.run(main)


def test_sockets_that_are_none_are_refused(run_dir: Path) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            left, right = socket.socketpair()
            with pytest.raises(Exception, match="LISTEN without"):
                await one.add_sandbox(SandboxId("c"), left, right)
            assert left.fileno() == right.fileno() == -1
            assert await one.known_sandboxes() == frozenset()

    trio.run(main)


@pytest.fixture
def zero() -> Iterator[bytes]:
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    yield struct.pack("i", descriptor)
    os.close(descriptor)


def test_garbage_on_the_control_socket_is_refused_and_counted(
    run_dir: Path, container: Container, zero: bytes
) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            with SocketChannel(await connect(run_dir / SOCKET_NAME)) as stranger:
                garbage = [b"\x00", b"\xc1" * 100, msgpack.packb([3, 1, [[5, "x", 1]]]), b"\x93" * 40_000]
                garbage += [
                    msgpack.packb([4, 9]),
                    msgpack.packb([6, 9, "c"]),
                ]  # well-formed, but without a sandbox
                for message in garbage:
                    await stranger.send(message)
                    answer = await stranger.receive()
                    assert answer is not None
                    assert isinstance(parse_reply_untrusted(answer[0]), Refused)
                await stranger._connection.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, zero)])
                await stranger.receive()
                await stranger.send(request_bytes(Count(1)))
                answer = await stranger.receive()
                assert answer is not None
                counted = parse_reply_untrusted(answer[0])
                assert isinstance(counted, Statistics)
                assert counted.counters["control_refused"] == len(garbage) + 1
                assert counted.counters["agents"] == 1
            assert await container.ask("database") == ["10.170.0.21"]
            process_id = process_id_of(one)
            assert open_files(process_id).count("/dev/zero") == 0

    trio.run(main)


def open_files(process_id: int) -> list[str]:
    found = []
    for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return found


def test_a_namespace_that_may_not_look_outside(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            table = names.world()
            await serve(one, container, table)
            query = dns.message.make_query("www.example.com", "A")
            for forward, rcode in ((True, 2), (False, 5)):
                key, row = names.sandbox("c", names.APP, forward=forward)
                assert await one.publish(table | {key: row})
                with container.asker() as sock, trio.fail_after(BOUND_S):
                    await sock.send(query.to_wire())
                    assert dns.message.from_wire(await sock.recv(4096)).rcode() == rcode

    trio.run(main)


def test_there_is_one_process_for_a_run_directory(run_dir: Path) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await one.known_sandboxes()
            with pytest.raises(OSError, match="another resolver process has"):
                await start_process(run_dir, release="x", resolv_conf=run_dir / "resolv.conf")
            mode = (run_dir / SOCKET_NAME).stat().st_mode & 0o777
            assert mode == 0o600

    trio.run(main)


def test_a_stale_socket_is_replaced(run_dir: Path) -> None:
    async def main() -> None:
        stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stale.bind(str(run_dir / SOCKET_NAME))
        stale.close()
        async with agent(run_dir, stop=True) as one:
            assert await one.known_sandboxes() == frozenset()

    trio.run(main)


def test_a_run_directory_that_is_missing_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        one = supervisor(tmp_path / "nowhere")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            await until(lambda: one.status()["trouble"])
            assert "nowhere" in str(one.status()["trouble"])
            with pytest.raises(Exception, match="nowhere"):
                await one.known_sandboxes()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_copy_of_sockets_leaves_them_as_they_are(run_dir: Path, container: Container) -> None:
    """The process never waits in a read: with `socket.dup` its own copies would wait, and all names with them."""
    with contextlib.closing(container.pair()) as served:
        for one in served:
            assert one is not None
            os.set_blocking(one.fileno(), False)  # as the process does with its copies
        with contextlib.closing(served.copy()) as copy:
            for mine, its in zip(copy, served, strict=True):
                assert mine is not None
                assert its is not None
                assert not os.get_blocking(its.fileno())
                assert mine.getsockname() == its.getsockname()
                assert (mine.family, mine.type) == (its.family, its.type)
                assert not mine.get_inheritable()


def test_the_process_is_light(run_dir: Path) -> None:
    """It must not drag in what only the agent needs."""
    heavy = [
        "pyroute2",
        "zeroconf",
        "cryptography",
        "sqlite3",
        "immutables",
        "starlette",
        "netgossip.driver",
        "netgossip.node",
        "asyncio",
    ]
    code = f"import sys, netagent.resolver.process; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
