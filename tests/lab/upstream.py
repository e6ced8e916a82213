"""A name server for the fabric: every name has one address, except those that begin with `missing`."""

from __future__ import annotations

import socket
import sys

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

ADDRESS = "198.51.100.7"


def respond(query: dns.message.Message) -> dns.message.Message:
    """The whole of its wisdom."""
    response = dns.message.make_response(query, recursion_available=True)
    question = query.question[0]
    if question.name.labels[0].startswith(b"missing"):
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A:
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", ADDRESS))
    return response


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], 53))
    while True:
        payload, client = server.recvfrom(4096)
        server.sendto(respond(dns.message.from_wire(payload)).to_wire(), client)
