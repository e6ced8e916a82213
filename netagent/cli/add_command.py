"""`netagent add USER@HOST`: another host becomes a member, with one command on a member."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from netagent.cli.client_commands import DONE, CommandContext, runs
from netagent.cli.render import clean
from netagent.enrol.enrolment import Added, Enrolment, Wish
from netagent.enrol.ssh import connected
from netagent.errors import InputError
from netagent.interface.this_host import AddCommand
from netagent.model.ids import is_name


@runs(AddCommand)
def add(session: CommandContext, request: AddCommand) -> int:
    """Say each step as it begins, and what has become of the host."""
    if request.name and not is_name(request.name):
        raise InputError(
            f"{request.name!r} is no name for a host",
            thing=request.name,
            hint="write one lower-case DNS label (a-z, 0-9, - and _, at most 63)",
        )
    parts = tuple(part for part in ("docker", "podman", "cni") if getattr(request, part))
    wish = Wish(request.name, Path(request.package) if request.package else None, parts)
    # As Ctrl-C does, so that the other host is cleaned up, also when the terminal is gone.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="netagent-add-") as name:
        folder = Path(name)
        with connected(request.where, folder) as remote:
            added = Enrolment(session.client, remote, wish, folder, _Steps()).run()
    answer = {
        "schema": 1,
        "name": added.name,
        "address": added.address,
        "created": not added.was_member,
        "took_s": round(added.took_s, 1),
    }
    session.printer.one(answer, lambda: _lines(added), name=added.name)
    return DONE


class _Steps:
    """Prints steps on standard error, each with the time since the first one."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def __call__(self, what: str) -> None:
        with contextlib.suppress(
            OSError
        ):  # a terminal that is gone must not keep the other host from being cleaned up
            print(f"{time.monotonic() - self._began_s:5.1f} s  {clean(what)}", file=sys.stderr, flush=True)


def _lines(added: Added) -> Iterator[str]:
    who = f"{added.name} ({added.address})"
    if added.was_member:
        yield f"{who} is a member, and packets pass both ways"
    else:
        yield f"{who} is a member now, and packets pass both ways; it took {added.took_s:.0f} s"
