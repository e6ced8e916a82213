"""Numbers of the IANA registries that this package uses, and nothing else."""

from __future__ import annotations

from typing import Final

# Types: https://www.iana.org/assignments/dns-parameters
A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
HINFO: Final = 13
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
OPT: Final = 41
DS: Final = 43
SVCB: Final = 64
HTTPS: Final = 65
TKEY: Final = 249
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
MAILB: Final = 253
MAILA: Final = 254
ANY: Final = 255

# Classes.
IN: Final = 1

# Header flags, as bits of the second 16-bit word.
QR: Final = 0x8000
OPCODE_MASK: Final = 0x7800
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
CD: Final = 0x0010

# Flag of the OPT record (RFC 6891 6.1.4).
DO: Final = 0x8000

# Keys of the parameters in SVCB and HTTPS (RFC 9460 14.3.2).
KEY_ALPN: Final = 1
KEY_NO_DEFAULT_ALPN: Final = 2
KEY_PORT: Final = 3
KEY_IPV4HINT: Final = 4
KEY_IPV6HINT: Final = 6

# Response codes. BADVERS needs the upper bits that live in OPT.
NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16

# Options of OPT.
OPTION_COOKIE: Final = 10
OPTION_EDE: Final = 15

# Extended DNS errors (RFC 8914 4).
EDE_OTHER: Final = 0
EDE_BLOCKED: Final = 15
EDE_PROHIBITED: Final = 18
EDE_NOT_AUTHORITATIVE: Final = 20
EDE_NO_REACHABLE_AUTHORITY: Final = 22

HEADER_BYTES: Final = 12
PLAIN_UDP_BYTES: Final = 512
"""Limit of a client without EDNS (RFC 1035 4.2.1); a smaller EDNS size means this as well (RFC 6891 6.2.3)."""
SAFE_UDP_BYTES: Final = 1232
"""Never fragmented on any path that carries IPv6: 1280 less 48 octets of headers (RFC 9715 3.1)."""
TCP_BYTES: Final = 65535
