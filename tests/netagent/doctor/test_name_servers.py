"""Which datagrams answer a query of the host, and which addresses in them are the asked name's."""

from __future__ import annotations

import ipaddress
import struct

import pytest
import trio

from netagent.doctor.facts.name_servers import NameServerReply, answer_untrusted, ask_servers
from netdns import constants
from netdns.name import from_text

NAME = from_text("db.example.com")
OTHER = from_text("other.example.net")
ALIAS = from_text("db.hosting.example")


def record(owner: bytes, address: str, *, rclass: int = constants.IN) -> bytes:
    data = ipaddress.ip_address(address).packed
    return owner + struct.pack("!HHIH", constants.A, rclass, 60, len(data)) + data


def alias(owner: bytes, target: bytes) -> bytes:
    return owner + struct.pack("!HHIH", constants.CNAME, constants.IN, 60, len(target)) + target


def reply(
    *records: bytes, number: int = 7, flags: int = constants.QR, asked: bytes = NAME, rtype: int = constants.A
) -> bytes:
    header = struct.pack("!HHHHHH", number, flags, 1, len(records), 0, 0)
    return header + asked + struct.pack("!HH", rtype, constants.IN) + b"".join(records)


@pytest.mark.parametrize(
    "payload",
    [
        reply(asked=OTHER),
        reply(rtype=constants.AAAA),
        reply(number=8),
        reply(flags=0),
        struct.pack("!HHHHHH", 7, constants.QR, 0, 0, 0, 0),
        b"\0",
    ],
)
def test_what_answers_another_question_is_ignored(payload: bytes) -> None:
    assert answer_untrusted(payload, 7, NAME, constants.A) is None


def test_an_answer_may_spell_the_name_differently() -> None:
    assert answer_untrusted(reply(asked=from_text("DB.Example.com")), 7, NAME, constants.A) is not None


class Server:
    """A socket whose other end answers each query; `edns` False: as a server that knows none."""

    def __init__(self, *records: bytes, flags: int = constants.QR, edns: bool = True) -> None:
        self.records, self.flags, self.edns = records, flags, edns
        self.queries: list[bytes] = []

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...

    async def connect(self, _: object) -> None: ...

    async def send(self, query: bytes) -> None:
        self.queries.append(query)

    async def recv(self, _: int) -> bytes:
        await trio.lowlevel.checkpoint()
        query = self.queries[-1]
        number, has_opt = int.from_bytes(query[:2], "big"), query[11]
        if has_opt and not self.edns:
            return struct.pack("!HHHHHH", number, constants.QR | constants.FORMERR, 0, 0, 0, 0)
        return reply(*self.records, number=number, flags=self.flags)


def ask(monkeypatch: pytest.MonkeyPatch, server: Server) -> NameServerReply:
    monkeypatch.setattr(trio.socket, "socket", lambda *_: server)
    (found,) = trio.run(ask_servers, ["192.0.2.1"], NAME, constants.A)
    return found


def test_only_addresses_of_the_name_and_its_aliases_count(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(
        record(ALIAS, "198.51.100.7"),
        alias(NAME, ALIAS),
        record(OTHER, "198.51.100.66"),
        record(ALIAS, "198.51.100.67", rclass=3),
        alias(ALIAS, NAME),
    )
    assert ask(monkeypatch, server).addresses == (("198.51.100.7", 60),)


def test_an_answer_that_does_not_fit_is_marked_and_more_room_is_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(record(NAME, "198.51.100.7"), flags=constants.QR | constants.TC)
    assert ask(monkeypatch, server).is_cut
    assert server.queries[0].endswith(struct.pack("!BHHIH", 0, constants.OPT, 1232, 0, 0))


def test_a_server_without_edns_is_asked_without(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(record(NAME, "198.51.100.7"), edns=False)
    assert ask(monkeypatch, server).addresses == (("198.51.100.7", 60),)
    assert [one[11] for one in server.queries] == [1, 0]
