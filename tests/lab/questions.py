"""Runs inside a container: asks its resolver everything on standard input and prints the answers.

In:  [[name, type], …]          Out: [[code, [data, …]], …], the data sorted; `NO-ANSWER` as code after two tries.

With a number and names as arguments it asks for their IPv4 addresses, one after the other, until standard input has
ended and it has asked so many times, and prints how often it got which answer: {"ADDRESS,…": count, "NXDOMAIN":
count, …}.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from itertools import cycle

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

RESOLVER = "127.0.0.11"
TRY_S = 2.0
EVERY_S = 0.01


def ask(name: str, rtype: str) -> tuple[str, list[str]]:
    query = dns.message.make_query(name, rtype, use_edns=0, payload=1232)
    for _ in range(2):
        try:
            reply, _ = dns.query.udp_with_fallback(query, RESOLVER, timeout=TRY_S)
        except (dns.exception.Timeout, OSError):
            continue
        wanted = dns.rdatatype.from_text(rtype)
        data = [item.to_text() for rrset in reply.answer if rrset.rdtype == wanted for item in rrset]
        return dns.rcode.to_text(reply.rcode()), sorted(data)
    return "NO-ANSWER", []


def until_input_ends(least: int, names: list[str]) -> Counter[str]:
    ended, seen = threading.Event(), Counter[str]()

    def watch() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    for name in cycle(names):
        code, data = ask(name, "A")
        seen[",".join(data) or code] += 1
        if ended.wait(EVERY_S) and seen.total() >= least:
            break
    return seen


if __name__ == "__main__" and sys.argv[1:]:
    json.dump(until_input_ends(int(sys.argv[1]), sys.argv[2:]), sys.stdout)
elif __name__ == "__main__":
    json.dump([ask(name, rtype) for name, rtype in json.load(sys.stdin)], sys.stdout)
