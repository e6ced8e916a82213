"""A process for the crash tests to kill: writes the same number in two tables, prints it when it is on disk, goes on.

journal_victim.py PATH
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, NetworkId
from netgossip.types import CLUSTER_SCOPE, Entry, Version

OWNER = "a" * 32


async def main() -> None:
    journal = Journal.open(Path(sys.argv[1]))
    head = max((log.head for log in journal.load_own_logs()), default=0)
    for number in range(head + 1, head + 100_000):
        entry = Entry(CLUSTER_SCOPE, OWNER, b"%d" % (number % 50), b"%d" % number, Version(1, number))
        row = LocalEndpointRow(
            endpoint_id=EndpointId(f"{number % 40:032x}"),
            network_id=NetworkId("c" * 32),
            name="n",
            service=str(number),
            offset=number % 40,
            addresses=(),
            mac="",
        )
        both = [*statements.append_entries("own", [entry]), *statements.save_endpoint(row)]
        await journal.transaction(both)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


trio.run(main)
