"""The lab's state in one file, which every `lab` command reads and some rewrite, under a lock.

The file is for finding things, not for cleaning up: `lab down` removes what it finds on the machine, so a lab whose
file was lost can still be removed.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netlab.errors import LabError
from netlab.process import ProcessId

DEFAULT_DIR = Path("/run/natlab")

_LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(slots=True)
class HostState:
    """A host; `init` is its process 1 while it has power."""

    address: str
    behind_nat: bool = False
    """The address is that of a router, behind which the host is."""
    init: ProcessId | None = None
    agent_wanted: bool = False
    """The agent was running, so booting the host starts it again."""
    dockerd_wanted: list[str] | None = None
    """The options with which dockerd was running, likewise; None = it was not."""


@dataclass(slots=True)
class ContainerState:
    """A container, and what is needed to start it again when its host boots."""

    host: str
    attach: list[str]
    """Options of `netagent attach`; empty = not attached."""
    command: list[str]
    """Its main process; empty = none."""


@dataclass(slots=True)
class Faults:
    """What is wrong with the fabric."""

    cuts: list[tuple[str, str]] = field(default_factory=list)
    """(from, to): nothing passes in this direction."""
    blocks: list[tuple[str, int]] = field(default_factory=list)
    """(host, port): a firewall drops TCP and UDP to this port, to and from the host."""
    loss: dict[str, float] = field(default_factory=dict)
    """Host -> per cent of packets lost, each way."""
    mtu: dict[str, int] = field(default_factory=dict)
    """Host -> largest packet of its cable, in bytes."""


@dataclass(slots=True)
class LabState:
    """The whole state."""

    hosts: dict[str, HostState] = field(default_factory=dict)
    containers: dict[str, ContainerState] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)


def chosen_dir() -> Path:
    """Return `NETLAB_DIR`, so that several labs can be up side by side. Raises LabError for an unusable name."""
    path = Path(os.environ.get("NETLAB_DIR") or DEFAULT_DIR)
    if not path.is_absolute() or not _LAB_NAME.fullmatch(path.name):
        raise LabError(
            f"NETLAB_DIR={path} must be an absolute path whose last part is a-z, 0-9 and '-' (at most 40), "
            "because namespaces are named after it",
            exit_status=2,
        )
    return path


class StateFile:
    """The file and its lock in a lab's folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.json"
        self._lock = folder / "lock"

    @property
    def exists(self) -> bool:
        """Whether a lab is up, or was when something crashed."""
        return self._file.exists()

    def read(self) -> LabState:
        """Read the state. Raises LabError when no lab is up, or the file is damaged."""
        try:
            return _decode(json.loads(self._file.read_text()))
        except FileNotFoundError:
            raise LabError("no lab is up: start one with `lab up`", exit_status=4) from None
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{self._file} is damaged ({error}): `lab down`, then `lab up`") from None

    @contextmanager
    def change(self) -> Iterator[LabState]:
        """Yield the state, locked; write it when the block ends, also by an error, to record what was done."""
        self._lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read() if self.exists else LabState()
            try:
                yield state
            finally:
                self._write(state)

    def _write(self, state: LabState) -> None:
        if not self._file.parent.exists():
            return  # `lab down` came in between; there is nothing left to describe
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(dataclasses.asdict(state), indent=1))
        fresh.replace(self._file)


def _decode(raw: dict[str, Any]) -> LabState:
    hosts = {
        name: HostState(
            address=host["address"],
            behind_nat=host["behind_nat"],
            init=ProcessId(**host["init"]) if host["init"] else None,
            agent_wanted=host["agent_wanted"],
            dockerd_wanted=host["dockerd_wanted"],
        )
        for name, host in raw["hosts"].items()
    }
    containers = {name: ContainerState(**container) for name, container in raw["containers"].items()}
    faults = raw["faults"]
    return LabState(
        hosts,
        containers,
        Faults(
            cuts=[(a, b) for a, b in faults["cuts"]],
            blocks=[(host, port) for host, port in faults["blocks"]],
            loss=dict(faults["loss"]),
            mtu=dict(faults["mtu"]),
        ),
    )
