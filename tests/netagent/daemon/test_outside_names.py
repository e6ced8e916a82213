"""What the answers for both address families say together of a name outside."""

from __future__ import annotations

import pytest

from netagent.daemon.cluster import answer_of
from netagent.doctor.facts.name_servers import NameServerReply
from netagent.external.watch import DnsAnswer

FOUR = NameServerReply("192.0.2.1", 0.01, status="NOERROR", addresses=(("198.51.100.1", 60),))
SIX = NameServerReply("192.0.2.1", 0.01, status="NOERROR", addresses=(("2001:db8::1", 60),))
NONE = NameServerReply("192.0.2.1", 0.01, status="NOERROR")
NO_NAME = NameServerReply("192.0.2.1", 0.01, status="NXDOMAIN")
FAILS = NameServerReply("192.0.2.2", 0.01, status="SERVFAIL")
SILENT = NameServerReply("192.0.2.3", None, "no answer")
CUT = NameServerReply("192.0.2.4", 0.01, status="NOERROR", is_cut=True)
CUT_SHORT = NameServerReply("192.0.2.4", 0.01, status="NOERROR", addresses=FOUR.addresses, is_cut=True)


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "found"),
    [
        ([FOUR], [SIX], DnsAnswer((("198.51.100.1", 60), ("2001:db8::1", 60)))),
        ([SILENT, FAILS, CUT, FOUR], [NONE], DnsAnswer((("198.51.100.1", 60),))),
        ([FOUR], [FAILS], DnsAnswer((("198.51.100.1", 60),))),
        ([FOUR], [SILENT], DnsAnswer((("198.51.100.1", 60),))),
        ([FOUR], [CUT], DnsAnswer((("198.51.100.1", 60),))),
        ([NONE], [NONE], DnsAnswer(())),
        ([NONE], [FAILS], None),
        ([FAILS], [SIX], None),
        ([CUT_SHORT], [NONE], None),
        ([NO_NAME], [FAILS], DnsAnswer((), exists=False)),
        ([], [], None),
    ],
)
def test_an_answer_follows_from_what_decides(
    ipv4: list[NameServerReply], ipv6: list[NameServerReply], found: DnsAnswer | None
) -> None:
    assert answer_of(ipv4, ipv6) == found
