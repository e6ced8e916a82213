"""The programs at the sockets do what their twin in C does, which a reader of the kernel's documents follows."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from harness.namespaces import NamespaceFactory
from harness.service_addresses import VNI, Network, open_network, open_tables

from netagent.datapath.bpf.cgroup import Hook
from netagent.datapath.sockets import adoption
from netagent.datapath.sockets.programs import programs
from netagent.model.records import ServicePort

pytestmark = pytest.mark.kernel

SOURCE = Path(__file__).with_name("service_addresses.bpf.c")
ONLY_443 = (ServicePort(443, 8080),)
SERVICES: list[tuple[str, tuple[str, ...], tuple[ServicePort, ...], bool, int]] = [
    ("10.98.0.1", ("b1",), (), False, VNI),
    ("10.98.0.2", (), (), False, VNI),
    ("10.98.0.3", ("b1",), ONLY_443, False, VNI),
    ("10.98.0.4", ("b1", "b2", "b3"), (), True, VNI),
    ("10.98.0.5", ("b2",), (), False, VNI + 1),
]
"""Address, backends, ports, whether sticky, network; each for IPv6 as well."""


def test_the_twin_in_c_does_the_same(
    namespaces: NamespaceFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = tmp_path / "twin.o"
    options = ["-target", "bpf", "-mcpu=v2", "-O2", "-Wall", "-Werror"]
    subprocess.run(["clang", *options, "-c", SOURCE, "-o", compiled], check=True)
    twins = read_programs(compiled.read_bytes())
    assert {f"cgroup/{hook.name.lower()}" for hook in Hook} == twins.keys()

    with open_network(namespaces) as network:
        ours = trio.run(behaviour, network)
        named = {
            hook: (name, twins[f"cgroup/{hook.name.lower()}"]) for hook, (name, _asm) in programs().items()
        }
        monkeypatch.setattr(adoption, "programs_by_hook", lambda: named)
        assert trio.run(behaviour, network) == ours


async def behaviour(network: Network) -> Any:
    """What a client sees, as far as no chance is in it."""
    entries = [
        network.entry(address, *backends, ports=ports, is_sticky=is_sticky, vni=vni)
        for ipv4, backends, ports, is_sticky, vni in SERVICES
        for address in (ipv4, ipv4.replace("10.98.0.", "fd98::"))
    ]
    client = network.clients[0]
    async with open_tables(network, *entries) as tables:
        assert tables.trouble is None
        seen = await client.call("""
result = []
for n in range(1, 7):
    for a in (f"10.98.0.{n}", f"fd98::{n}", f"::ffff:10.98.0.{n}"):
        for port in (80, 443):
            # The kernel limits how many ICMP errors it sends, for all namespaces together.
            datagram = connected_udp(a, port)
            result.append([a, port, tcp(a, port), "ECONNREFUSED" if datagram == "TimeoutError" else datagram])
        if n in (1, 2, 3): result.append([udp(a, port) for port in (443, 80) if n != 1 or port == 80])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    for port in (80, 8080):
        for a in ("10.98.0.1", "10.97.0.102", "10.97.0.103"):
            sock.sendto(b"x", (a, port)); result.append(end(sock.recvfrom(99)[1]))
""")
        backends = [ip_address(one).packed for pair in network.backends.values() for one in pair]
        return seen, [await tables.used_members([one]) for one in backends]


@dataclass(frozen=True)
class Twin:
    """Instructions out of an object file, in the place of an Assembler."""

    code: bytes
    maps: tuple[tuple[int, str], ...]
    """At which octet the descriptor of which map belongs."""

    def assemble(self, fds: Mapping[str, int]) -> bytes:
        code = bytearray(self.code)
        for at, name in self.maps:
            code[at + 1] = (code[at + 1] & 0x0F) | 0x10  # the source register: BPF_PSEUDO_MAP_FD
            struct.pack_into("<i", code, at + 4, fds[name])
        return bytes(code)


def read_programs(elf: bytes) -> dict[str, Twin]:
    """Just enough of ELF: sections whose name begins with `cgroup/`, and what they refer to by a symbol's name."""
    (section_table,) = struct.unpack_from("<Q", elf, 40)
    count, names_at = struct.unpack_from("<HH", elf, 60)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", elf, section_table + 64 * number) for number in range(count)
    ]
    bodies = [elf[section[4] : section[4] + section[5]] for section in sections]

    def text(table: bytes, at: int) -> str:
        return table[at : table.index(b"\0", at)].decode()

    names = [text(bodies[names_at], section[0]) for section in sections]
    symbols_at = next(number for number, section in enumerate(sections) if section[1] == 2)  # SHT_SYMTAB
    strings = bodies[sections[symbols_at][6]]
    symbols = [text(strings, one[0]) for one in struct.iter_unpack("<IBBHQQ", bodies[symbols_at])]
    references: dict[int, list[tuple[int, str]]] = {}
    for section, body in zip(sections, bodies, strict=True):
        if section[1] == 9:  # SHT_REL
            references[section[7]] = [
                (at, symbols[info >> 32]) for at, info in struct.iter_unpack("<QQ", body)
            ]
    return {
        name: Twin(bodies[number], tuple(references.get(number, ())))
        for number, name in enumerate(names)
        if name.startswith("cgroup/")
    }
