"""The encrypted tunnel between two and three hosts, through real wireguard-go."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness.namespaces import Namespace
from harness.tunnel_hosts import PORT, Host, await_that, tunnel_hosts

from netagent.tunnel.keys import private_key_from

pytestmark = pytest.mark.kernel


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[Callable[[int], list[Host]]]:
    with tunnel_hosts(tmp_path) as make:
        yield make


def wireguard_processes(namespace: Namespace) -> list[int]:
    found = []
    for process_id in namespace_processes(namespace):
        with suppress(OSError):
            if Path(f"/proc/{process_id}/comm").read_text().strip() == "wireguard-go":
                found.append(process_id)
    return found


def namespace_processes(namespace: Namespace) -> list[int]:
    words = ["ip", "netns", "pids", namespace.name]
    return [
        int(one) for one in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    ]


def test_two_hosts_reach_each_other_and_only_with_the_same_keys(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    first, second = make_hosts(2)
    first.set_peers(second)
    second.set_peers(first)
    assert first.ask("process")["backend"] == "wireguard-go"
    await_that(lambda: first.reaches(second))
    with first.stream_to(second, 0.5) as finish:
        assert finish() > 1 << 20
    (state,) = first.ask("states").values()
    endpoint, handshake_s_ago, received_bytes, sent_bytes = state
    assert endpoint == ["192.0.2.2", PORT]
    assert 0 <= handshake_s_ago < 60
    assert received_bytes > 0
    assert sent_bytes > 1 << 20

    # Another preshared key: sessions that stand go on, so the device is made anew.
    second.ask("remove")
    second.ensure()
    second.set_peers(first, ring=b"another")
    assert not first.reaches(second, 2)
    assert not second.reaches(first, 2)
    second.set_peers(first)
    await_that(lambda: second.reaches(first), 20)

    # Another private key.
    second.private_key = private_key_from(secrets.token_bytes(32))
    second.ensure()
    assert not first.reaches(second, 2)
    assert not second.reaches(first, 2)


def test_a_killed_process_is_replaced_within_a_second_and_a_stream_goes_on(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    first, second = make_hosts(2)
    first.set_peers(second)
    second.set_peers(first)
    await_that(lambda: first.reaches(second))
    with first.stream_to(second, 4.0) as finish:
        before = first.process_id
        assert before is not None
        os.kill(before, signal.SIGKILL)
        took_s = await_that(lambda: first.process_id not in {None, before})
        assert took_s < 1.0
        after = first.process_id
        assert wireguard_processes(first.namespace) == [after]
        # While there is no process, the device keeps its addresses and routes, so nothing goes another way.
        assert "nx-tunnel" in first.namespace.run(f"ip -6 route get {second.address}")
        second_before = second.process_id
        assert second_before is not None
        os.kill(second_before, signal.SIGKILL)
        assert finish() > 1 << 20
    assert second.process_id not in {None, second_before}


def test_the_next_agent_adopts_the_process_and_interrupts_nothing(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    first, second = make_hosts(2)
    first.set_peers(second)
    second.set_peers(first)
    await_that(lambda: first.reaches(second))
    before = first.process_id
    handshake_s = next(iter(first.ask("states").values()))[1]
    with first.stream_to(second, 3.0) as finish:
        first.stop()
        assert first.reaches(second)
        first.start()
        first.ensure()
        assert first.process_id == before
        assert first.ask("process")["starts"] == 0
        assert first.reaches(second)  # peers have not been said yet, and are there
        first.set_peers(second)
        assert finish() > 1 << 20
    assert next(iter(first.ask("states").values()))[1] > handshake_s  # the same session


def test_remove_leaves_nothing_behind(make_hosts: Callable[[int], list[Host]]) -> None:
    (host,) = make_hosts(1)
    assert "netagent tunnel cluster" in host.namespace.run("ip link show nx-tunnel")
    (socket_file,) = host.sockets.iterdir()
    assert socket_file.stat().st_mode & 0o077 == 0
    host.ask("remove")
    assert wireguard_processes(host.namespace) == []
    assert host.namespace.try_run("ip link show nx-tunnel").returncode != 0
    assert list(host.sockets.iterdir()) == []
    host.ask("remove")


def test_the_device_of_another_program_is_left_alone(make_hosts: Callable[[int], list[Host]]) -> None:
    (host,) = make_hosts(1)
    host.ask("remove")
    host.namespace.run("ip link add nx-tunnel type bridge")
    with pytest.raises(AssertionError, match="belongs to another program's device"):
        host.ensure()
    host.ask("remove")
    host.namespace.run("ip link show nx-tunnel")


def test_what_a_killed_agent_has_made_and_not_marked_is_taken_up(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    first, second = make_hosts(2)
    first.ask("remove")
    first.namespace.run("ip tuntap add dev nx-tunnel mode tun")
    first.ensure()
    first.set_peers(second)
    second.set_peers(first)
    await_that(lambda: first.reaches(second))
    first.ask("remove")
    assert "nx-tunnel" not in first.namespace.run("ip -br link")


def test_another_programs_tun_is_left_alone(make_hosts: Callable[[int], list[Host]]) -> None:
    (host,) = make_hosts(1)
    host.ask("remove")
    host.namespace.run("ip tuntap add dev nx-tunnel mode tun")
    host.namespace.run("ip link set nx-tunnel up")
    with pytest.raises(AssertionError, match="belongs to another program's device"):
        host.ensure()
    host.ask("remove")
    host.namespace.run("ip link show nx-tunnel")


def test_peers_come_and_go_under_a_stream_of_another(make_hosts: Callable[[int], list[Host]]) -> None:
    first, second, third = make_hosts(3)
    first.set_peers(second, third)
    second.set_peers(first)
    third.set_peers(first)
    await_that(lambda: first.reaches(second) and first.reaches(third))
    lost = first.namespace.running(
        "import subprocess, sys\n"
        "done = subprocess.run(['ping', '-6', '-q', '-c', '300', '-i', '0.01', sys.argv[1]],"
        " capture_output=True, text=True)\n"
        "print(done.stdout.replace(chr(10), ' '), flush=True)",
        second.address,
    )
    with lost as ping, first.stream_to(second, 2.0) as finish:
        for _ in range(10):
            first.set_peers(second)
            first.set_peers(second, third)
        assert finish() > 1 << 20
        assert ping.stdout is not None
        assert " 0% packet loss" in ping.stdout.readline()
    await_that(lambda: first.reaches(third), 20)


def test_the_process_has_one_capability_and_no_key_in_its_arguments(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    (host,) = make_hosts(1)
    process = Path(f"/proc/{host.process_id}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    net_admin = 1 << 12
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == net_admin
    assert status["NoNewPrivs"] == "1"
    assert (process / "cmdline").read_bytes().split(b"\0")[1:] == [b"-f", b"nx-tunnel", b""]
    assert host.private_key.hex().encode() not in (process / "environ").read_bytes()
