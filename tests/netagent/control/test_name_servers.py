"""`lookup` says of a name outside the cluster what the resolver would."""

from __future__ import annotations

from typing import Any

import pytest

from netagent.commands.lookup import answered
from netagent.doctor.facts.name_servers import NameServerReply

FOUND: Any = {"name": "a.example.", "type": "A", "answers": [], "reason": "not ours", "servers": []}
SAYS = NameServerReply("192.0.2.1", 0.01, status="NOERROR", addresses=(("198.51.100.1", 60),), record_count=1)
SAYS_NO = NameServerReply("192.0.2.2", 0.01, status="NXDOMAIN")
SAYS_NONE = NameServerReply("192.0.2.3", 0.01, status="NOERROR")
FAILS = NameServerReply("192.0.2.4", 0.01, status="SERVFAIL")
SILENT = NameServerReply("192.0.2.5", None, "no answer")


@pytest.mark.parametrize(
    ("servers", "addresses"),
    [
        ([SAYS, SAYS_NO], ["198.51.100.1"]),
        ([SILENT, FAILS, SAYS], ["198.51.100.1"]),
        ([SAYS_NO, SAYS], []),
        ([SAYS_NONE, SAYS], []),
        ([], []),
    ],
)
def test_the_first_server_that_says_anything_decides(
    servers: list[NameServerReply], addresses: list[str]
) -> None:
    assert [one["data"] for one in answered(FOUND, servers, ())["answers"]] == addresses


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "10.9.0.7"])
def test_what_leads_inside_is_shown_as_what_containers_get(address: str) -> None:
    says = NameServerReply("192.0.2.1", 0.01, status="NOERROR", addresses=((address, 60),), record_count=1)
    found = answered(FOUND, [says], {"10.9.0.0/20"})
    assert found["answers"] == []
    assert "is inside the overlay" in found["reason"]
    assert found["servers"][0]["addresses"] == [address]
