"""Lookup of containers, units and machines by their names, with the command of the program that manages them.

The result is always a process, and the agent attaches its network namespace. The kernel may reuse the pid, but the
agent identifies a namespace by its inode: attaching records it, and if the path leads to another namespace later,
the endpoint is withdrawn (netagent.endpoints.garbage_collector).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from netagent.endpoints.targets import RuntimeTargets, Target, netns_of_pid
from netagent.errors import FailedError, InputError, NetagentError, NotFoundError, RefusedError
from netagent.model.ids import nearest_name
from netagent.model.number import MAX_PID, whole_number

ASK_S = 5.0
"""Timeout of a command, in seconds. systemctl and podman take 10 and 60 ms; after seconds their daemon hangs."""

MAX_COMPLAINT = 200
"""At most this many characters of a program's error message are shown."""

_NOTHING_OF_THAT_NAME = re.compile(
    r"no such (container|object)|no machine '|no container with", re.IGNORECASE
)
"""The errors of docker, podman and machinectl for an unknown name. Any other error means that they could not tell,
for instance because the daemon's socket or its unit does not exist."""


async def _docker(name: str) -> Target:
    """Find a running Docker container."""
    hint = "see `docker ps`"
    pid = await _inspected("docker", name, hint)
    return _target("docker", name, pid, hint=f"`docker start {name}` first", behind_runtime=True)


async def _podman(name: str) -> Target:
    """Find a running container of rootful Podman."""
    hint = "see `sudo podman ps`; containers of rootless Podman can be attached with pid:PID only"
    pid = await _inspected("podman", name, hint)
    return _target("podman", name, pid, hint=f"`podman start {name}` first")


async def _unit(name: str) -> Target:
    """Find the main process of a systemd unit that has its own network namespace."""
    said = await _run("systemctl", "show", "--property=MainPID,LoadState", "--", name)
    shown = _properties(said.output)
    if said.status or shown.get("LoadState") in {"not-found", "bad-setting"}:
        raise said.no_answer or NotFoundError(
            f"systemd has no unit {name!r}",
            code="no-such-unit",
            thing=name,
            hint="see `systemctl list-units`",
        )
    hint = f"`systemctl start {name}` first; only a unit with a main process, a service, can be attached"
    return _own(
        _target("unit", name, _pid(shown.get("MainPID", "")), hint=hint),
        "give the unit PrivateNetwork=yes, or NetworkNamespacePath= of a named namespace, and restart it",
    )


async def _machine(name: str) -> Target:
    """Find a machine of systemd-machined."""
    said = await _run("machinectl", "show", "--property=Leader", "--", name)
    if said.status:
        raise said.no_answer or NotFoundError(
            f"systemd knows no machine {name!r}",
            code="no-such-machine",
            thing=name,
            hint="see `machinectl list`",
        )
    return _own(
        _target("machine", name, _pid(_properties(said.output).get("Leader", "")), hint="start it first"),
        "start it with --private-network or --network-veth",
    )


HOST_TARGETS: Final[RuntimeTargets] = {
    "docker": _docker,
    "podman": _podman,
    "unit": _unit,
    "machine": _machine,
}


async def _inspected(program: str, name: str, hint: str) -> int:
    said = await _run(program, "container", "inspect", "--format", "{{.State.Pid}}", "--", name)
    if said.status:
        raise said.no_answer or NotFoundError(
            f"{program} knows no container {name!r}", code="no-such-container", thing=name, hint=hint
        )
    return _pid(said.output)


def _target(kind: str, name: str, pid: int, *, hint: str, behind_runtime: bool = False) -> Target:
    if not pid:
        raise RefusedError(
            f"the {_WORDS[kind]} {name!r} is not running", code="not-running", thing=name, hint=hint
        )
    default_name = nearest_name(name.removesuffix(".service") if kind == "unit" else name)
    return Target(f"{kind}:{name}", netns_of_pid(pid), default_name, behind_runtime=behind_runtime)


_WORDS = {
    "docker": "Docker container",
    "podman": "Podman container",
    "unit": "unit",
    "machine": "machine",
}


def _own(target: Target, hint: str) -> Target:
    """Refuse a target in the host's own namespace; the hint names the setting that gives it its own."""
    try:
        shared = Path(target.path).samefile(Path("/proc/self/ns/net"))
    except OSError:
        shared = False  # it has just ended: opening the path will fail
    if shared:
        raise RefusedError(
            f"{target.text} uses the host's own network namespace",
            code="host-namespace",
            thing=target.text,
            hint=hint,
        )
    return target


def _properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _pid(text: str) -> int:
    return whole_number(text.strip(), 0, MAX_PID) or 0


@dataclass(frozen=True, slots=True)
class _CommandAnswer:
    """The output of a program."""

    program: str
    status: int
    output: str
    complaint: str
    """The first line on standard error."""

    @property
    def no_answer(self) -> NetagentError | None:
        """Return the error if the program could not tell, for instance because its daemon does not run; None if it
        said that the name is unknown."""
        if not self.complaint or _NOTHING_OF_THAT_NAME.search(self.complaint):
            return None
        return FailedError(
            f"{self.program} failed: {self.complaint}",
            code="runtime-silent",
            thing=self.program,
            hint=f"check that the daemon behind `{self.program}` runs, then try again",
        )


async def _run(*command: str) -> _CommandAnswer:
    """Run a command. RefusedError when the program does not exist, FailedError when it does not end."""
    if any("\0" in word or not word.isprintable() for word in command):
        raise InputError(f"{command[-1]!r} is not a name", thing=command[-1], hint="write it as it is shown")
    try:
        with trio.move_on_after(ASK_S):
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            complaint = (
                done.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:MAX_COMPLAINT].rstrip(".")
            )
            return _CommandAnswer(
                command[0], done.returncode, done.stdout.decode("utf-8", "replace"), complaint
            )
    except OSError as error:
        raise RefusedError(
            f"cannot run {command[0]}: {error.strerror}",
            code="no-runtime",
            thing=command[0],
            hint="install it, or attach the process with pid:PID",
        ) from None
    raise FailedError(
        f"{command[0]} did not answer within {ASK_S:.0f} s",
        code="timeout",
        thing=command[0],
        hint="see the log of its daemon",
    )
