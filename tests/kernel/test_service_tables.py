"""The programs at the sockets over time: starts, ends and exchanges of agents, damage, what stands in the way."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import create_string_buffer
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from harness.namespaces import NamespaceFactory, wait_until
from harness.service_addresses import (
    VNI,
    Client,
    Network,
    open_group,
    open_network,
    open_tables,
    result_of,
    running_tables,
)

from netagent.datapath.bpf import cgroup, programs
from netagent.datapath.bpf.cgroup import Hook
from netagent.datapath.bpf.instructions import Assembler, Register
from netagent.datapath.bpf.maps import open_by_id
from netagent.datapath.bpf.programs import Kind
from netagent.datapath.bpf.system_call import ATTRIBUTE_BYTES, Command, bpf, call
from netagent.datapath.reconcile.drift import Drift
from netagent.datapath.sockets import adoption, layout, service_tables
from netagent.datapath.sockets import programs as our_programs
from netagent.datapath.sockets.layout import Member, ServiceEntry, pack_member
from netagent.datapath.sockets.lease import LEASE_NAME, AgentLease
from netagent.datapath.sockets.service_tables import ServiceTables
from netagent.errors import FailedError
from netagent.model.records import ServicePort

pytestmark = pytest.mark.kernel

WEB4, WEB6 = "10.98.0.5", "fd98::5"
PROMPT_S = 2.0
"""Within which damage is repaired."""


@pytest.fixture
def network(namespaces: NamespaceFactory) -> Iterator[Network]:
    with open_network(namespaces) as made:
        yield made


@pytest.fixture
def client(network: Network) -> Client:
    return network.clients[0]


@contextmanager
def opened(group: Path) -> Iterator[int]:
    fd = open_group(group)
    try:
        yield fd
    finally:
        os.close(fd)


def present(group: Path) -> dict[Hook, list[int]]:
    """The ids of all programs but the agents' leases."""
    with opened(group) as fd:
        found = {hook: list(cgroup.programs_at(fd, hook).programs) for hook in Hook}
    return {hook: [one for one in ids if not _is_lease(one)] for hook, ids in found.items()}


def _is_lease(number: int) -> bool:
    info = programs.info_by_id(number)
    return info is None or info.mark.name == LEASE_NAME


def entries(network: Network) -> dict[bytes, ServiceEntry]:
    made = [network.entry(WEB4, "b1", ports=[ServicePort(80, 8080)]), network.entry(WEB6, "b1")]
    return {entry.address: entry for entry in made}


async def fill(tables: ServiceTables, network: Network) -> None:
    await tables.set_members([Member(client.cookie, VNI) for client in network.clients])
    await tables.replace_services(entries(network))


def other_program(name: str = "other", hook: Hook = Hook.CONNECT4) -> int:
    asm = Assembler()
    asm.exit(1)
    return programs.load(Kind.CGROUP_SOCK_ADDR, name, asm.assemble({}), place=hook).fd


_LINK_DETACH: Any = 34
"""A command of bpf(2) of which the agent makes no use."""


def works(client: Client) -> bool:
    return bool(client.run(f"result = tcp('{WEB4}', 80) == ['b1 10.97.0.11', '{WEB4} 80']"))


# -- starts and ends --------------------------------------------------------------------------------------------


def test_a_start_adopts_what_an_earlier_agent_left(network: Network, client: Client) -> None:
    """While no agent is there, the last state stands; the next one changes no program and reads the places back."""

    async def main() -> None:
        async with running_tables(network.group) as tables:
            assert present(network.group) == {hook: [] for hook in Hook}, "nothing is wanted yet"
            await fill(tables, network)
            assert tables.trouble is None
        before = present(network.group)
        assert all(len(found) == 1 for found in before.values())
        assert works(client)

        drift = Drift()
        async with running_tables(network.group, drift=drift) as tables:
            address, entry = next(iter(entries(network).items()))
            assert tables.places_in_kernel(address) == entry.places
            assert tables.is_usable(Member(client.cookie, VNI)), "also before anything is set"
            assert present(network.group) == before
            await fill(tables, network)
            assert present(network.group) == before
            # What is not wanted any more goes with the first whole picture.
            await tables.replace_services({address: entry})
            await tables.set_members([])
            assert (
                await client.call(f"result = [tcp('{WEB4}', 80), tcp('{WEB6}', 80)]") == ["ECONNREFUSED"] * 2
            )
            assert drift.total == 0
            await tables.detach_all()
        assert present(network.group) == {hook: [] for hook in Hook}

    trio.run(main)


def test_a_leave_leaves_nothing_and_connections_go_on(network: Network, client: Client) -> None:
    async def main() -> None:
        async with running_tables(network.group) as tables:
            await fill(tables, network)
            process = client.start(f"""
sock = connected("{WEB4}", 80)
print("ready", file=sys.stderr, flush=True)
while tcp("{WEB4}", 80) != "ECONNREFUSED": pass
sock.send(b"x")
result = [sock.recv(99).decode(), end(sock.getpeername())]
""")
            assert process.stderr is not None
            await trio.to_thread.run_sync(process.stderr.readline)
            maps = _map_ids(network.group)
            await tables.detach_all()
            # The socket shows its real peer from now on.
            assert await trio.to_thread.run_sync(result_of, process) == ["b1 10.97.0.11", "10.97.0.101 8080"]
            assert present(network.group) == {hook: [] for hook in Hook}
            await wait_until(lambda: not any(map(_is_there, maps)), "the kernel frees the maps")
            await tables.replace_services(entries(network))
            assert present(network.group) == {hook: [] for hook in Hook}, "it has left"

    trio.run(main)


def _map_ids(group: Path) -> set[int]:
    with opened(group) as fd:
        return {number for _hook, info in adoption.ours_at(fd) for number in info.maps}


def _is_there(map_id: int) -> bool:
    opened_map = open_by_id(map_id)
    if opened_map is not None:
        opened_map.close()
    return opened_map is not None


def test_a_release_with_other_programs_takes_over_under_load(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty exchanges by fresh agents; no connection and no datagram goes or shows wrong."""
    code = f"""
until = time.monotonic() + 4
count, wrong = 0, []
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(5)
while time.monotonic() < until:
    answer = tcp("{WEB4}", 80)
    sock.sendto(b"x", ("{WEB4}", 80))
    data, name = sock.recvfrom(99)
    if [answer, data, end(name)] != [["b1 10.97.0.11", "{WEB4} 80"], b"b1 10.97.0.11", "{WEB4} 80"]:
        wrong.append([answer, data.decode(), end(name)])
    count += 1
result = [count, wrong]
"""
    real = our_programs.programs

    def of_another_release(padding: int) -> Mapping[Hook, tuple[str, Assembler]]:
        """The same, with instructions in front that do nothing, so that digests differ."""
        made = real()
        for _name, asm in made.values():
            front = Assembler()
            for _ in range(padding):
                front.move(Register.R0, 0)
            asm._code[:0] = front._code
        return {hook: (name, _shifted(asm, padding)) for hook, (name, asm) in made.items()}

    async def main() -> None:
        async with running_tables(network.group) as tables:
            await fill(tables, network)
        process = client.start(code)
        seen = {tuple(map(tuple, present(network.group).values()))}
        for number in range(40):
            made = partial(of_another_release, number % 3 + 1)
            monkeypatch.setattr(adoption, "programs_by_hook", made)
            async with running_tables(network.group):
                seen.add(tuple(map(tuple, present(network.group).values())))
        assert len(seen) == 41
        assert all(len(found) == 1 for found in present(network.group).values())
        count, wrong = await trio.to_thread.run_sync(result_of, process)
        assert wrong == []
        assert count > 100
        async with running_tables(network.group) as tables:
            await tables.detach_all()

    trio.run(main)


def _shifted(asm: Assembler, by: int) -> Assembler:
    """Labels are numbers of instructions."""
    for label in {one.target for one in asm._code if one.target is not None}:
        assert label.at is not None
        label.at += by
    return asm


def test_a_release_with_another_layout_takes_over_when_its_tables_are_complete(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running_tables(network.group) as tables:
            await fill(tables, network)
        before, old_maps = present(network.group), _map_ids(network.group)
        monkeypatch.setattr(adoption, "adoptable_maps", lambda _group: {})
        async with running_tables(network.group) as tables:
            await tables.set_members([Member(client.cookie, VNI)])
            assert present(network.group) == before, "its tables are empty"
            await tables.replace_services(entries(network))
            assert all(len(found) == 1 for found in present(network.group).values())
            assert not {*map(tuple, before.values())} & {*map(tuple, present(network.group).values())}
            assert not old_maps & _map_ids(network.group)
            assert works(client)
            await tables.detach_all()

    trio.run(main)


def test_programs_of_another_layout_go_when_no_service_is_wanted_any_more(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tables lead to backends of which no agent knows whether they are there. Not before both are known."""
    monkeypatch.setattr(service_tables, "STALE_S", 0.3)

    async def main() -> None:
        async with running_tables(network.group) as tables:
            await fill(tables, network)
        before = present(network.group)
        monkeypatch.setattr(adoption, "adoptable_maps", lambda _group: {})
        async with running_tables(network.group) as tables:
            await tables.replace_services({})
            for _ in range(3):
                await tables._look()
                await trio.sleep(0.2)
            assert present(network.group) == before, "it is not known yet whether there are members"
            await tables.set_members([])
            await tables._look()
            assert present(network.group) == before, "nor whether some will come"
            await wait_until(
                lambda: present(network.group) == {hook: [] for hook in Hook}, "they are detached"
            )
            assert tables.trouble is None

    trio.run(main)


# -- two agents -------------------------------------------------------------------------------------------------


_OTHER_AGENT = """
import sys
from pathlib import Path
import trio
from harness.service_addresses import running_tables
from netagent.datapath.sockets.layout import Member, ServiceEntry
cookie, vni, address, backend = int(sys.argv[2]), int(sys.argv[3]), *map(bytes.fromhex, sys.argv[4:])
async def main():
    async with running_tables(Path(sys.argv[1])) as tables:
        await tables.set_members([Member(cookie, vni)])
        await tables.replace_services({address: ServiceEntry(address, vni, (backend,) * 64)})
        print(tables.trouble, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@contextmanager
def other_agent(network: Network) -> Iterator[subprocess.Popen[str]]:
    """Another process that leads the service's IPv4 address, at the same group."""
    (entry, *_), tests = entries(network).values(), Path(__file__).parents[1]
    numbers = [str(network.clients[0].cookie), str(VNI)]
    addresses = [entry.address.hex(), entry.places[0].hex()]
    words = [sys.executable, "-c", _OTHER_AGENT, str(network.group), *numbers, *addresses]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent / 'netns-lab'}"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "None\n"
            yield process
        finally:
            process.kill()


def test_a_second_agent_says_so_and_changes_nothing_until_the_first_has_ended(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_tables, "RETRY_S", 0.1)

    async def main() -> None:
        with other_agent(network) as first:
            before, maps = present(network.group), _map_ids(network.group)
            async with running_tables(network.group) as tables:
                await tables.set_members([Member(5, VNI)])
                await tables.replace_services({})
                await tables._look()
                assert tables.trouble is not None
                assert "another agent of this host" in tables.trouble
                assert tables.usable_members == frozenset()
                assert (present(network.group), _map_ids(network.group)) == (before, maps)
                await tables.detach_all()
            assert present(network.group) == before, "not with a leave either"
            assert works(client)
            async with running_tables(network.group) as tables:
                first.kill()
                await wait_until(lambda: tables.trouble is None, "it takes what the first has left", 30.0)
                assert tables.is_usable(Member(client.cookie, VNI))
                assert (present(network.group), _map_ids(network.group)) == (before, maps)
                await tables.detach_all()

    trio.run(main)


def test_a_lease_that_is_detached_is_taken_again(network: Network) -> None:
    async def main() -> None:
        async with open_tables(network, *entries(network).values()) as tables:
            lease = tables._programs._lease if tables._programs is not None else None
            assert lease is not None
            assert lease._link is not None
            with opened(network.group) as fd:
                before = lease._leases()
                call(_LINK_DETACH, create_string_buffer(struct.pack("=I", lease._link), ATTRIBUTE_BYTES))
                assert lease._leases() == []
                await wait_until(lambda: lease._leases() == before, "it has it again", 30.0)
                with pytest.raises(FailedError, match="another agent"):
                    AgentLease(fd)
            assert tables.trouble is None

    trio.run(main)


# -- damage -----------------------------------------------------------------------------------------------------


def test_damage_is_repaired_within_two_seconds_and_counted(network: Network, client: Client) -> None:
    async def main() -> None:
        drift = Drift()
        async with open_tables(network, *entries(network).values(), drift=drift) as tables:
            with opened(network.group) as fd:
                adopted = adoption.adoptable_maps(fd)
                before = present(network.group)
                cgroup.detach(fd, Hook.CONNECT4, before[Hook.CONNECT4][0])
                cgroup.detach(fd, Hook.RECVMSG6, before[Hook.RECVMSG6][0])
                await wait_until(lambda: present(network.group) == before, "they are back", PROMPT_S)
                await wait_until(lambda: drift.kinds == {"socket-program-removed": 2}, "it is counted")

                web4, web6 = ip_address(WEB4).packed, ip_address(WEB6).packed
                services, ports, members = (
                    adopted[shape.name] for shape in (layout.SERVICES4, layout.PORTS, layout.MEMBERS)
                )
                value = services.lookup(web4)
                assert value is not None
                services.update(web4, value.replace(ip_address("10.97.0.101").packed, b"\x0a\x61\0\x66"))
                services.update(bytes([10, 98, 0, 9]), value)
                adopted[layout.SERVICES6.name].delete(web6)
                ports.delete(next(iter(layout.pack_ports(entries(network)[web4]))))
                key = pack_member(Member(client.cookie, VNI))
                members.delete(key)
                members.update(pack_member(Member(5, VNI)), layout.USED)
                await wait_until(
                    lambda: (
                        drift.kinds
                        == {"member-altered": 2, "service-altered": 4, "socket-program-removed": 2}
                    ),
                    "it is counted",
                    PROMPT_S,
                )
                assert services.lookup(web4) == value
                assert services.lookup(bytes([10, 98, 0, 9])) is None
                assert members.lookup(key) == layout.USED, (
                    "connections of before are found when they must end"
                )
                assert works(client)
                assert tables.trouble is None
                for one in adopted.values():
                    one.close()

    trio.run(main)


def test_changes_while_the_kernel_is_compared_are_no_damage(network: Network) -> None:
    """Two hundred services that change all the time, beside comparisons one after the other."""

    async def main() -> None:
        drift = Drift()
        async with open_tables(network, *entries(network).values(), drift=drift) as tables:
            until = trio.current_time() + 1.5
            number = 0
            async with trio.open_nursery() as nursery:

                async def compare() -> None:
                    while trio.current_time() < until:
                        await tables._look()

                nursery.start_soon(compare)
                while trio.current_time() < until:
                    number += 1
                    address = f"10.98.1.{number % 200}"
                    entry = None if number % 3 == 0 else network.entry(address, f"b{number % 2 + 1}")
                    await tables.set_services({ip_address(address).packed: entry})
            assert number > 200
            assert drift.total == 0

    trio.run(main)


# -- what stands in the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, 1], ids=["none", "override"])
def test_a_program_that_lets_none_beside_it_is_named_and_nothing_is_half_done(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    """Attached without BPF_F_ALLOW_MULTI, as old agents do; when it goes, service addresses work."""
    monkeypatch.setattr(service_tables, "RETRY_S", 0.1)

    async def main() -> None:
        with opened(network.group) as fd, _attached(fd, Hook.SENDMSG6, flags):
            async with open_tables(network, *entries(network).values()) as tables:
                assert tables.trouble is not None
                assert "the BPF program other at the root of the control groups" in tables.trouble
                assert not tables.is_usable(Member(client.cookie, VNI))
                assert tables.usable_members == frozenset()
                found = present(network.group)
                assert len(found.pop(Hook.SENDMSG6)) == 1
                assert not any(found.values())
                called: list[bool] = []
                tables.watch(lambda: called.append(tables.is_usable(Member(client.cookie, VNI))))
                cgroup.detach(fd, Hook.SENDMSG6, present(network.group)[Hook.SENDMSG6][0])
                await wait_until(lambda: tables.trouble is None, "it tries again")
                assert called == [True]
                assert works(client)

    trio.run(main)


@contextmanager
def _attached(group: int, hook: Hook, flags: int) -> Iterator[int]:
    """Another program, with these flags."""
    fd = other_program(hook=hook)
    try:
        bpf(Command.ATTACH, struct.pack("=IIIII", group, fd, hook, flags, 0))
        yield fd
    finally:
        cgroup.detach(group, hook, programs.info_of(fd).id)
        os.close(fd)


def test_programs_of_others_stay_and_work_beside_ours(network: Network, client: Client) -> None:
    """At the root with BPF_F_ALLOW_MULTI, and below it with any flag."""

    async def main() -> None:
        below = network.group / "below"
        below.mkdir()
        with opened(network.group) as fd, opened(below) as fd_below, _attached(fd, Hook.CONNECT4, 2) as other:
            async with open_tables(network, *entries(network).values()) as tables:
                assert tables.trouble is None
                assert programs.info_of(other).id == present(network.group)[Hook.CONNECT4][0]
                assert works(client)
                for flags in (0, 1, 2):
                    with _attached(fd_below, Hook.CONNECT4, flags):
                        assert works(Client(client.namespace, below, client.cookie))
            assert present(network.group)[Hook.CONNECT4] == [programs.info_of(other).id]
        below.rmdir()

    trio.run(main)


def test_a_program_of_another_user_with_our_name_is_not_adopted(network: Network, client: Client) -> None:
    """It has our names, our instructions and our kinds of maps, and leads to where its user likes."""
    code = """
import os, sys, ctypes
from netagent.datapath.bpf import cgroup, programs
from netagent.datapath.sockets.adoption import SocketPrograms
group = os.open(sys.argv[1], os.O_RDONLY)
libc = ctypes.CDLL(None)
assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
os.setuid(12345)
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, data) == 0
data[0], data[3] = data[1], data[4]
assert libc.capset(header, data) == 0
theirs = SocketPrograms(group, {})
theirs.attach_all()
"""

    async def main() -> None:
        await trio.run_process([sys.executable, "-c", code, str(network.group)])
        foreign = present(network.group)
        assert all(len(found) == 1 for found in foreign.values())
        foreign_maps = set()
        with opened(network.group) as fd:
            for found in foreign.values():
                with programs.opened(found[0]) as program:
                    assert program is not None
                    assert programs.info_of(program).loaded_by == 12345
                    foreign_maps |= {*programs.info_of(program).maps}
            async with open_tables(network, *entries(network).values()) as tables:
                assert tables.trouble is None
                assert not foreign_maps & _map_ids(network.group)
                assert works(client)
            assert present(network.group) == foreign, "and it is left alone"
            for hook, found in foreign.items():
                cgroup.detach(fd, hook, found[0])

    trio.run(main)


def test_when_64_programs_are_there_the_trouble_says_so(network: Network) -> None:
    async def main() -> None:
        fds = []
        with opened(network.group) as fd:
            for _ in range(64):
                fds.append(other_program())
                cgroup.attach(fd, Hook.CONNECT4, fds[-1])
            async with open_tables(network, *entries(network).values()) as tables:
                assert tables.trouble is not None
                assert "64 programs" in tables.trouble
            for number in present(network.group)[Hook.CONNECT4]:
                cgroup.detach(fd, Hook.CONNECT4, number)
        for one in fds:
            os.close(one)

    trio.run(main)


def test_a_full_table_keeps_what_it_has_and_takes_the_rest_when_there_is_room(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = layout.SERVICES4
    small = type(real)(real.name, real.kind, real.key_bytes, real.value_bytes, 3)
    shapes = tuple(small if shape is real else shape for shape in layout.SHAPES)
    monkeypatch.setattr(adoption, "SHAPES", shapes)
    monkeypatch.setattr(service_tables, "RETRY_S", 0.1)

    async def main() -> None:
        wanted = [network.entry(f"10.98.0.{number}", "b1") for number in range(1, 6)]
        async with open_tables(network, *wanted) as tables:
            assert tables.trouble is None
            assert tables.lack == ("not all service addresses are in the kernel: the kernel's table is full")
            assert tables.is_usable(Member(client.cookie, VNI)), "the others work"
            led = [entry for entry in wanted if tables.is_in_kernel(entry.address)]
            assert len(led) == 3
            await tables.set_services({led[0].address: None, led[1].address: None})
            assert tables.lack is None
            assert all(tables.is_in_kernel(entry.address) for entry in wanted if entry not in led[:2])

    trio.run(main)


@pytest.mark.parametrize("lacking", ["bpf", "rights", "memory"])
def test_without_a_right_everything_works_as_without_service_addresses(
    network: Network, lacking: str
) -> None:
    """A process that lacks CAP_SYS_ADMIN and CAP_BPF, or all rights, says so. On kernels since 5.11 a low limit of
    locked memory is no matter."""
    code = """
import ctypes, resource, sys
import trio
from harness.service_addresses import open_group, running_tables
from netagent.datapath.sockets.layout import Member, ServiceEntry
from pathlib import Path
lacking, group = sys.argv[1], Path(sys.argv[2])
if lacking == "memory":
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
else:
    libc = ctypes.CDLL(None)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for at in (0, 1, 2) if lacking == "bpf" else ():
        data[at] &= ~(1 << 21)
    for at in (3, 4, 5) if lacking == "bpf" else ():
        data[at] &= ~(1 << 7)
    if lacking == "rights":
        data = (ctypes.c_uint32 * 6)()
    assert libc.capset(header, data) == 0
async def main():
    async with running_tables(group) as tables:
        await tables.set_members([Member(7, 7)])
        await tables.replace_services({bytes(4): ServiceEntry(bytes(4), 7, ())})
        print(tables.trouble, tables.is_usable(Member(7, 7)))
        await tables.detach_all()
trio.run(main)
"""
    words = [sys.executable, "-c", code, lacking, str(network.group)]
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent / 'netns-lab'}"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    if lacking == "memory":
        assert done.stdout == "None True\n"
    else:
        assert "CAP_SYS_ADMIN" in done.stdout
        assert done.stdout.endswith("False\n")
    assert present(network.group) == {hook: [] for hook in Hook}


def test_a_mount_that_can_only_be_read_is_enough(network: Network, client: Client) -> None:
    """As systemd's ProtectControlGroups= makes it."""
    code = """
import os, subprocess, sys
import trio
from harness.service_addresses import open_group
from netagent.datapath.reconcile.drift import Drift
from netagent.datapath.sockets.layout import Member, ServiceEntry
from netagent.datapath.sockets.service_tables import ServiceTables
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[1]], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[1]], check=True)
def open_root():
    assert os.fstatvfs(os.open(sys.argv[1], os.O_RDONLY)).f_flag & os.ST_RDONLY
    return open_group(sys.argv[1])
async def main():
    tables = ServiceTables(Drift(), open_root=open_root)
    async with trio.open_nursery() as nursery:
        await nursery.start(tables.run)
        await tables.set_members([Member(7, 7)])
        await tables.replace_services({bytes(4): ServiceEntry(bytes(4), 7, ())})
        print(tables.trouble, tables.is_usable(Member(7, 7)))
        await tables.detach_all()
        nursery.cancel_scope.cancel()
trio.run(main)
"""
    words = ["unshare", "--mount", sys.executable, "-c", code, str(network.group)]
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent / 'netns-lab'}"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "None True\n"


# -- size -------------------------------------------------------------------------------------------------------


def test_ten_thousand_services_leave_room_for_others(network: Network) -> None:
    """While they are written and compared, another task of the event loop goes on."""

    async def main() -> None:
        wanted = {}
        for number in range(10_000):
            address = ip_address(f"10.98.{number >> 8}.{number & 255}").packed
            wanted[address] = ServiceEntry(address, VNI, (bytes([10, 97, 0, 101]),) * 64)
        longest_s = 0.0

        async def tick() -> None:
            nonlocal longest_s
            while True:
                began = trio.current_time()
                await trio.sleep(0.001)
                longest_s = max(longest_s, trio.current_time() - began)

        async with open_tables(network) as tables, trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await tables.replace_services(wanted)
            await tables._look()
            nursery.cancel_scope.cancel()
            assert all(tables.is_in_kernel(address) for address in wanted)
        assert longest_s < 0.1

    trio.run(main)
