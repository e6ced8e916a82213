"""Runs in a mount namespace of its own: fills a small disk under a journal. Prints what happened, one word
per line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from netagent.journal import statements
from netagent.journal.journal import DiskFullError, Journal
from netagent.journal.rows import LocalEndpointRow
from netagent.journal.writer import HEADROOM_BYTES
from netagent.model.ids import EndpointId, NetworkId
from netgossip.types import CLUSTER_SCOPE, Entry, Version

FOLDER = Path(sys.argv[1])
FILLER = FOLDER / "filler"


def fill(leave_bytes: int) -> None:
    space = os.statvfs(FOLDER)
    size = space.f_bavail * space.f_frsize - leave_bytes
    with FILLER.open("ab") as file:
        file.write(bytes(max(size, 0)))


def row(number: int) -> LocalEndpointRow:
    return LocalEndpointRow(
        endpoint_id=EndpointId(f"{number:032x}"),
        network_id=NetworkId("c" * 32),
        name="n",
        service="n",
        offset=number,
        addresses=(),
        mac="",
    )


def appended(value: bytes, sequence: int) -> list[statements.Statement]:
    return statements.append_entries(
        "own", [Entry(CLUSTER_SCOPE, "a" * 32, b"k", value, Version(1, sequence))]
    )


async def is_refused(operation: Callable[..., Awaitable[object]], *args: Any) -> bool:
    try:
        await operation(*args)
    except DiskFullError as error:
        return str(FOLDER) in error.message
    return False


async def main() -> None:
    journal = Journal.open(FOLDER / "state.db")
    await journal.save_endpoint(row(1))
    assert journal.has_room

    fill(HEADROOM_BYTES // 2)
    assert not journal.has_room
    assert await is_refused(journal.save_endpoint, row(2))
    assert journal.load_endpoints() == [row(1)]
    await journal.transaction([statements.delete_endpoint(row(1).endpoint_id)])
    assert journal.load_endpoints() == []
    print("nearly-full")

    fill(0)
    number = 0
    while not await is_refused(journal.transaction, appended(bytes(9000), number + 1)):
        number += 1
        assert number < 5000, "a full disk took everything"
    assert [log.head for log in journal.load_own_logs()] == ([number] if number else [])
    print("full")

    FILLER.unlink()
    assert journal.has_room
    await journal.save_endpoint(row(3))
    await journal.transaction(appended(b"v", number + 1))
    journal.close()
    journal = Journal.open(FOLDER / "state.db")
    assert journal.load_endpoints() == [row(3)]
    assert [log.head for log in journal.load_own_logs()] == [number + 1]
    journal.close()
    print("recovered")

    fill(0)
    try:
        Journal.open(FOLDER / "state.db")
    except DiskFullError:
        print("refused-to-open")


subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "netagent-test", FOLDER], check=True)
trio.run(main)
