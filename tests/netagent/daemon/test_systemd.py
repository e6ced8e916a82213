"""The conversation with a service manager, held with real descriptors and datagrams."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from netagent.daemon.systemd import MAX_SOCKETS, ServiceManager
from netagent.errors import InputError

SELF = str(os.getpid())

CHILD = """
import os, sys
from netagent.errors import InputError
from netagent.daemon.systemd import ServiceManager

given = [int(text) for text in sys.argv[2:]]
moved = [os.dup2(fd, 50 + n) for n, fd in enumerate(given)]
for n, fd in enumerate(moved):
    os.dup2(fd, 3 + n)
environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": sys.argv[1]}
try:
    supervision = ServiceManager(environment)
except InputError as error:
    sys.exit(str(error))
assert not environment
for name in ("api", "docker", "unknown"):
    listener = supervision.take_socket(name)
    if listener:
        print(name, listener.getsockname(), os.get_inheritable(listener.fileno()))
        listener.close()
supervision.tell_ready("")
"""


def started(names: str, *sockets: socket.socket) -> subprocess.CompletedProcess[str]:
    """What a child makes of sockets that it finds from descriptor 3 on."""
    descriptors = [one.fileno() for one in sockets]
    return subprocess.run(
        [sys.executable, "-c", CHILD, names, *map(str, descriptors)],
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def listening(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(str(path))
    if kind is socket.SOCK_STREAM:
        listener.listen()
    return listener


def test_sockets_are_found_by_name_and_not_inherited_further(tmp_path: Path) -> None:
    with listening(tmp_path / "a") as api, listening(tmp_path / "d") as docker:
        done = started("docker:api", docker, api)
    assert done.stdout.splitlines() == [f"api {tmp_path}/a False", f"docker {tmp_path}/d False"]


def test_a_socket_without_a_name_is_unknown_and_an_unused_one_is_closed(tmp_path: Path) -> None:
    with listening(tmp_path / "a") as api, listening(tmp_path / "d") as other:
        done = started("other", other, api)
    assert done.stdout == f"unknown {tmp_path}/a False\n"
    assert "no part of the agent uses the socket 'other'" in done.stderr


def test_only_listening_stream_sockets_are_accepted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, listening(tmp_path / "d", socket.SOCK_DGRAM) as datagrams:
        assert "does not listen" in started("api", silent).stderr
        assert "is not a unix stream socket" in started("api", datagrams).stderr
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        assert "is not a unix stream socket" in started("api", tcp).stderr
    with listening(tmp_path / "a") as api:
        assert "has the same name as another" in started("api:api", api, api).stderr


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": SELF},
        {"LISTEN_FDS": "0", "LISTEN_PID": SELF, "LISTEN_FDNAMES": ""},
    ],
)
def test_sockets_of_another_process_are_not_touched(environment: dict[str, str]) -> None:
    supervision = ServiceManager(environment)
    assert environment == {}
    assert supervision.take_socket("api") is None


def test_too_many_sockets_are_a_mistake() -> None:
    with pytest.raises(InputError, match="at most"):
        ServiceManager({"LISTEN_FDS": str(MAX_SOCKETS + 1), "LISTEN_PID": SELF})


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


def test_states_are_sent(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "HOME": "/root"}
    supervision = ServiceManager(environment)
    assert environment == {"HOME": "/root"}  # a child must not speak for the agent
    supervision.tell_ready("in the cluster\nmesh")
    supervision.tell_status("in no cluster")
    supervision.tell_stopping()
    reported = [manager.recv(1000).decode() for _ in range(3)]
    assert reported == ["READY=1\nSTATUS=in the cluster mesh", "STATUS=in no cluster", "STOPPING=1"]


def test_the_abstract_namespace() -> None:
    name = f"netagent-test-{SELF}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(b"\0" + name.encode())
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).tell_stopping()
        assert receiver.recv(100) == b"STOPPING=1"


def test_without_a_service_manager_nothing_is_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager({}).tell_ready("")
    ServiceManager({"NOTIFY_SOCKET": "vsock:2:1"}).tell_ready("")
    assert caplog.messages == []
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell_ready("")
    assert "cannot tell the service manager READY=1: No such file" in caplog.text


def test_a_service_manager_that_does_not_read_stops_nothing(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    supervision = ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})
    for _ in range(1000):  # net.unix.max_dgram_qlen is 512 at most by default
        supervision.tell_status("again")
    assert "cannot tell" in caplog.text


def pings(manager: socket.socket) -> int:
    count = 0
    try:
        while manager.recv(100) == b"WATCHDOG=1":
            count += 1
    except BlockingIOError:
        return count
    raise AssertionError("another message came")


def test_the_watchdog_gets_three_messages_per_period_while_the_loop_runs(manager: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": SELF,
    }

    async def main() -> None:
        with trio.move_on_after(59):
            await ServiceManager(environment).run_watchdog()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert pings(manager) == 6


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "many"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}],
)
def test_without_a_watchdog_nothing_is_sent(manager: socket.socket, watchdog: dict[str, str]) -> None:
    supervision = ServiceManager({"NOTIFY_SOCKET": manager.getsockname(), **watchdog})
    trio.run(supervision.run_watchdog)  # returns at once
    assert pings(manager) == 0


def words_until_silence(manager: socket.socket) -> Iterator[bytes]:
    """Silence is as long as its timeout."""
    with contextlib.suppress(TimeoutError):
        while True:
            yield manager.recv(100)


def test_a_loop_that_hangs_is_silent_and_shows_where_it_hung(manager: socket.socket) -> None:
    program = (
        "import os, time, trio, trio.testing\n"
        "from netagent.daemon.systemd import ServiceManager\n"
        "def hang_here():\n"
        "    time.sleep(60)\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        nursery.start_soon(ServiceManager(os.environ).run_watchdog)\n"
        "        await trio.testing.wait_all_tasks_blocked()\n"
        "        hang_here()\n"
        "trio.run(main)\n"
    )
    environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "300000"}
    manager.settimeout(20)
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert manager.recv(100) == b"WATCHDOG=1"
        manager.settimeout(1.0)
        further = itertools.islice(words_until_silence(manager), 5)
        assert len(list(further)) < 5, "a busy machine may have let it come to one or two"
        process.send_signal(signal.SIGABRT)  # as systemd does
        _, words = process.communicate(timeout=20)
    assert "in hang_here" in words
