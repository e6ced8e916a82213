"""`netagent doctor`: the agent's report, or the command line's own examination where no agent answers.

Only the second needs the agent's libraries, so it imports them only then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from netagent.cli.client_commands import DONE, NO, CommandContext, runs, waiting
from netagent.cli.render import Item, clean, counted
from netagent.control.client import Client
from netagent.errors import FailedError, NetagentError, RefusedError, UnreachableError
from netagent.interface.questions import DoctorCommand, VersionCommand

_MARKS = {"passed": "ok", "warning": "warn", "failed": "FAIL", "not known": "?"}
_NAME_WIDTH = 18
SIGN_OF_LIFE_S = 5.0


@runs(DoctorCommand)
def doctor(session: CommandContext, request: DoctorCommand) -> int:
    """Check the host, and the kernel against the records."""
    with waiting(request.declaration.waits):
        answer, silence = examined(session.client, request)
    session.printer.one(answer, lambda: report(answer), name="healthy" if answer["healthy"] else "unhealthy")
    if silence is not None:
        raise silence
    return DONE if answer["healthy"] else NO


def examined(client: Client, request: DoctorCommand) -> tuple[Item, NetagentError | None]:
    """Return the doctor's answer, and the error of an agent that does not answer: then the command line examines the
    host by itself."""
    try:
        # An agent that hangs must not keep the command waiting for a minute.
        client.with_patience(SIGN_OF_LIFE_S).send(VersionCommand())
        return client.send(request), None
    except (UnreachableError, FailedError) as error:
        if isinstance(error, FailedError) and error.code != "timeout":
            raise
        return _alone(request, error), error


def _alone(request: DoctorCommand, error: NetagentError) -> dict[str, Any]:
    import os

    if os.geteuid():
        raise RefusedError(
            f"{error.message}, and only root can examine the host without the agent",
            code="not-permitted",
            hint="use sudo",
        ) from None
    from netagent.cli.offline_doctor import look

    return look(request.config)


def report(answer: Item) -> Iterator[str]:
    """Yield one line per check, then the findings."""
    if answer["agent"] == "silent":
        yield "No agent answers. These checks work without one:"
        yield ""
    yield "host"
    yield from map(_line, answer["host"])
    yield ""
    yield f"kernel, containers and names compared with the records{_extent(answer['looked_at'])}"
    if answer["intent"]:
        yield from map(_line, answer["intent"])
    else:
        yield f"  not compared: {clean(answer['absent'])}"
    yield ""
    yield "cluster and configuration"
    cluster = answer.get("cluster", [])
    if cluster:
        yield from map(_line, cluster)
    else:
        yield "  not checked: no agent answers" if answer["agent"] == "silent" else "  not checked"
    yield from _findings([*answer["host"], *answer["intent"], *cluster], has_cluster=bool(cluster))


def _line(check: Item) -> str:
    text = check["says"] if check["verdict"] == "passed" else _summary(check)
    return f"  {_MARKS[check['verdict']]:<4}  {check['name']:<{_NAME_WIDTH}}{clean(text)}"


def _summary(check: Item) -> str:
    if check["verdict"] == "not known":
        return f"not known: {check['note']}"
    return counted(len(check["findings"]) + check["left_out"], "finding")


def _extent(looked_at: Item) -> str:
    if not looked_at:
        return ""
    words = {"networks": "network", "containers": "container", "devices": "device", "questions": "question"}
    parts = [counted(looked_at[key], one) for key, one in words.items() if key in looked_at]
    if "entries" in looked_at:
        parts.insert(3, counted(looked_at["entries"], "entry", "entries"))
    return f" ({', '.join(parts)})"


def _findings(checks: Sequence[Item], *, has_cluster: bool) -> Iterator[str]:
    found = [(check, one) for check in checks for one in check["findings"]]
    unknown = [check["name"] for check in checks if check["verdict"] == "not known"]
    unknown += [] if has_cluster else ["the cluster"]
    yield ""
    if not found:
        yield "No problems found." if not unknown else f"No check failed; not checked: {', '.join(unknown)}."
        return
    for check, one in found:
        mark = "!" if one["severity"] == "failed" else "-"
        yield f"  {mark} {check['name']}: {clean(one['message'])}"
        yield f"    fix: {clean(one['fix'])}"
    for check in checks:
        if check["left_out"]:
            yield f"  … {check['name']}: {counted(check['left_out'], 'further finding')} left out"
    failed = sum(1 for _, one in found if one["severity"] == "failed")
    yield ""
    yield f"{counted(failed, 'failure')}, {counted(len(found) - failed, 'warning')}"
