"""Which lines of the kernel's table of TCP sockets are connections that something may still have to be carried on."""

from __future__ import annotations

import ipaddress
import sys

import pytest

from netagent.datapath.endpoint.tcp_connections import _packed, is_any_under_way

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(address: str, state: int, port: int = 80) -> str:
    packed = ipaddress.ip_address(address).packed
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    local = "".join(f"{word:08X}" for word in words)
    return (
        f"   0: {local}:{port:04X} 0100A0C0:C350 {state:02X} 00000000:00000000 00:00000000 00000000     0\n"
    )


@pytest.mark.parametrize("address", ["10.1.0.2", "fd00::2"])
@pytest.mark.parametrize("state", range(1, 12))
def test_what_is_under_way_is_told_from_what_is_over(address: str, state: int) -> None:
    # LISTEN 10, CLOSE 7, TIME_WAIT 6; in FIN_WAIT2 (5) the peer has all; SYN_SENT (2): no answer has come yet.
    over = {2, 5, 6, 7, 10}
    found = is_any_under_way([HEADING, line(address, state)], {_packed(address)})
    assert found is (state not in over)


def test_another_address_does_not_count_and_a_mapped_one_does() -> None:
    mine = {_packed("10.1.0.2")}
    assert not is_any_under_way([HEADING, line("127.0.0.1", 1), line("10.1.0.3", 1)], mine)
    assert is_any_under_way([HEADING, line("::ffff:10.1.0.2", 1)], mine)
