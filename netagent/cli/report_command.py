"""`netagent report`: what a bug report needs, in one archive.

Each entry of the archive is made by itself, within bounds of time and size. An entry that cannot be made does not end
the report; the manifest says why it is missing. An agent that hangs costs one timeout: then the archive has what the
host says without it.

No secret gets in: the key ring, the identity and the journal are not read. Labels are published to all hosts of a
network all the same, but people write passwords' hashes into them (Traefik's users), and passwords into the commands
of checks. So their values and the commands are left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from netagent import __version__
from netagent.checks.spec import discreet_text
from netagent.cli.client_commands import DONE, CommandContext, runs
from netagent.cli.config_commands import keys_of
from netagent.cli.doctor_command import SIGN_OF_LIFE_S, examined, report
from netagent.cli.render import clean, counted
from netagent.config import load_with_origins
from netagent.control.client import Client
from netagent.errors import FailedError, NetagentError, RefusedError, UnreachableError
from netagent.interface.cluster import MembersCommand
from netagent.interface.command import Command
from netagent.interface.containers import NetworkListCommand
from netagent.interface.questions import (
    DoctorCommand,
    EndpointsCommand,
    EventsCommand,
    ReportCommand,
    ServicesCommand,
    StatusCommand,
    VersionCommand,
)
from netagent.model.ids import nearest_name

MAX_ENTRY_BYTES = 16 * 1024 * 1024
"""Bound of one entry of a report; beyond it: the rest is cut off, and the manifest says so."""
COMMAND_S = 20.0
"""After this a program of the host is ended, and what it has written is kept."""
LOG_LINES = 5_000
_PART_BYTES = 64 * 1024
"""Files below /proc/sys are not read in larger parts: the kernel allocates what a read asks for."""

_KERNEL: tuple[tuple[str, ...], ...] = (
    ("uname", "-a"),
    ("ip", "-details", "-statistics", "link"),
    ("ip", "address"),
    ("ip", "rule"),
    ("ip", "-6", "rule"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "neighbour"),
    ("ip", "netns", "list-id"),
    ("bridge", "-details", "fdb"),
    ("bridge", "-details", "link"),
    ("nft", "--stateless", "list", "ruleset"),
    ("ss", "-tulnp"),
    ("bpftool", "prog"),
    ("bpftool", "net"),
    ("bpftool", "cgroup", "tree"),
    ("df", "-h"),
    ("free", "-m"),
)
_FILES = (
    "/etc/os-release",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv4/conf/all/rp_filter",
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/mounts",
)


class _UnreadableError(Exception):
    """An entry cannot be made; says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive. `make` raises a NetagentError, an OSError or _UnreadableError if it cannot."""

    name: str
    make: Callable[[], bytes]


@runs(ReportCommand)
def write_report(session: CommandContext, request: ReportCommand) -> int:
    """Write the archive."""
    printer = session.printer
    path = Path(request.file) if request.file else Path(_default_name(time.time()))
    entries = [*_of_agent(session.client), *_of_host(session.client)]
    notes: list[str] = []
    missing: list[dict[str, str]] = []
    with _created(path) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for place, entry in enumerate(entries, start=1):
            if sys.stderr.isatty():
                print(f"\r\x1b[Knetagent: {place} of {len(entries)}: {entry.name}", end="", file=sys.stderr)
            try:
                content = entry.make()
            except (NetagentError, OSError, _UnreadableError) as error:
                missing.append({"entry": entry.name, "cause": str(error)})
                continue
            if len(content) > MAX_ENTRY_BYTES:
                notes.append(f"{entry.name}: cut off after {MAX_ENTRY_BYTES:,} octets of {len(content):,}")
                content = content[:MAX_ENTRY_BYTES]
            _add(archive, entry.name, content)
        _add(archive, "manifest.txt", _manifest(len(entries) - len(missing), missing, notes))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    answer = {
        "schema": 1,
        "file": str(path),
        "entry_count": len(entries) - len(missing) + 1,
        "missing": missing,
        "notes": notes,
    }
    printer.one(answer, lambda: _lines(answer), name=str(path))
    return DONE


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    yield f"wrote {clean(answer['file'])}: {counted(answer['entry_count'], 'entry', 'entries')}"
    causes: dict[str, list[str]] = {}
    for one in answer["missing"]:
        causes.setdefault(one["cause"], []).append(one["entry"])
    for cause, entries in causes.items():
        yield f"  without {', '.join(entries)}: {clean(cause)}"
    yield from (f"  {clean(note)}" for note in answer["notes"])
    yield (
        "It has no keys, tokens, values of labels or commands of checks, but names and addresses: look through it "
        "before you send it."
    )


def _manifest(count: int, missing: Sequence[dict[str, str]], notes: Sequence[str]) -> bytes:
    made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lines = [f"netagent {__version__}, {made_at}, {counted(count, 'entry', 'entries')}"]
    lines += [f"missing: {one['entry']}: {one['cause']}" for one in missing]
    return "\n".join([*lines, *notes, ""]).encode(errors="backslashreplace")


def _default_name(now_s: float) -> str:
    host = nearest_name(socket.gethostname().partition(".")[0]) or "host"
    return f"netagent-report-{host}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now_s))}.tar.gz"


@contextlib.contextmanager
def _created(path: Path) -> Iterator[io.FileIO]:
    """Make the archive's file, and remove it again if the report fails: a new one that its owner alone can read,
    whatever another user has put at the path."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise RefusedError(
            f"{path} exists",
            code="exists",
            thing=str(path),
            hint="remove it, or name another file with --file",
        ) from None
    except OSError as error:
        raise FailedError(
            f"cannot write {path}: {error.strerror}", thing=str(path), hint="name another file with --file"
        ) from None
    with io.FileIO(descriptor, "w") as file:
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(f"netagent-report/{name}")
    about.size, about.mtime, about.mode = len(content), int(time.time()), 0o600
    archive.addfile(about, io.BytesIO(content))


# -- what the agent says ---------------------------------------------------------------------------------------------


EVENTS_S = 30 * 86400.0
"""Events of the last month are in the report."""


def _of_agent(client: Client) -> Iterator[Entry]:
    questions: tuple[tuple[str, Command[Any]], ...] = (
        ("version", VersionCommand()),
        ("status", StatusCommand()),
        ("members", MembersCommand()),
        ("networks", NetworkListCommand()),
        ("services", ServicesCommand(local=True)),
        ("endpoints", EndpointsCommand(local=True)),
        ("events", EventsCommand(since_s=EVENTS_S)),
    )
    asker = _Asker(client)
    for name, question in questions:
        yield Entry(f"{name}.json", partial(asker.ask, question))


class _Asker:
    """Asks the agent until it does not answer once."""

    def __init__(self, client: Client) -> None:
        self._client = client.with_patience(SIGN_OF_LIFE_S)
        self._silence: NetagentError | None = None

    def ask(self, question: Command[Any]) -> bytes:
        if self._silence is not None:
            raise self._silence
        try:
            return _json(self._client.send(question))
        except (UnreachableError, FailedError) as error:
            if isinstance(error, UnreachableError) or error.code == "timeout":
                self._silence = error
            raise


def _json(answer: Any) -> bytes:
    return (json.dumps(without_secrets(answer), indent=1) + "\n").encode()


def without_secrets(value: Any, key: str = "") -> Any:
    """Return an answer in which each label has its key, but not its value, and checks have no commands."""
    if isinstance(value, dict):
        if key == "labels":
            return dict.fromkeys(value, "left out")
        return {name: without_secrets(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [without_secrets(one, key) for one in value]
    return discreet_text(value) if key == "checks" and isinstance(value, str) else value


# -- what the host says ----------------------------------------------------------------------------------------------


def _of_host(client: Client) -> Iterator[Entry]:
    yield Entry("doctor.txt", partial(_doctor, client))
    yield Entry("config.json", _configuration)
    yield Entry(
        "log/agent.txt",
        lambda: _run(
            "journalctl", "--unit", "netagent", "--no-pager", "--output", "short-iso", f"--lines={LOG_LINES}"
        ),
    )
    yield Entry("log/resolver.txt", _resolver_log)
    for words in _KERNEL:
        name = " ".join(words).replace("/", "")
        yield Entry(f"host/{name}.txt", partial(_run, *words))
    for file in _FILES:
        yield Entry(f"host{file}", partial(_head_of, Path(file)))


def _doctor(client: Client) -> bytes:
    answer, _ = examined(client, DoctorCommand())
    return ("\n".join(report(answer)) + "\n").encode()


def _configuration() -> bytes:
    loaded = load_with_origins(None, {}, os.environ)
    return _json({"files": [str(file) for file in loaded.files], "keys": keys_of(loaded)})


def _resolver_log() -> bytes:
    run_dir = load_with_origins(None, {}, os.environ).config.run_dir
    return _tail_of(run_dir / "resolver.log")


def _head_of(path: Path) -> bytes:
    content = bytearray()
    with path.open("rb") as file:
        while len(content) <= MAX_ENTRY_BYTES and (part := file.read(_PART_BYTES)):
            content += part
    return bytes(content)


def _tail_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_ENTRY_BYTES))
        return file.read(MAX_ENTRY_BYTES)


def _run(*words: str) -> bytes:
    """Return what a program writes, with its errors. Its output goes to a file, so that a program that never ends
    neither blocks nor fills memory."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except FileNotFoundError:
            raise _UnreadableError(f"there is no program {words[0]}") from None
        try:
            process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            _end(process)
            output.seek(0, os.SEEK_END)
            output.write(f"\n(ended after {COMMAND_S:g} s)\n".encode())
        except BaseException:  # Ctrl-C: the program does not get it, being in a session of its own
            _end(process)
            raise
        output.seek(0)
        return output.read(MAX_ENTRY_BYTES + 1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and those that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
