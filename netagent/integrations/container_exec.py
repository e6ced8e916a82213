"""Commands of checks, run in containers by their runtimes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import trio

from netagent.checks.ask import shown_untrusted
from netagent.checks.spec import duration_text
from netagent.checks.state import Answer, Outcome, Unasked
from netagent.endpoints.validation import RUNS_COMMANDS
from netagent.errors import NetagentError
from netagent.journal.rows import LocalEndpointRow
from netagent.model.check import ExecCheck
from netagent.model.origin_labels import CONTAINER_ID, label_of

Execute: TypeAlias = Callable[[str, Sequence[str]], Awaitable[tuple[int, bytes] | None]]
"""Runs a command in a container until it ends, by name or id; returns exit status and output. None: an earlier run of
it does not end, so this one did not begin."""

NOT_RUN: Final = "not-run"
"""Code of the error of a runtime that answers, and does not run the command: the container may be paused."""
MAX_SAID_CHARS: Final = 120
"""Most characters that are shown of what a runtime says then."""


def container_of_row(row: LocalEndpointRow) -> tuple[str, str]:
    """Return the runtime of an endpoint's container, and what the container is called there; "" if there is none."""
    runtime, _, rest = (row.origin or row.target).partition(":")
    if row.origin is None and runtime in RUNS_COMMANDS:
        return runtime, rest
    return runtime, label_of(row.labels, CONTAINER_ID)


async def run_check(execute: Execute, container: str, check: ExecCheck, timeout_s: float) -> Answer:
    """Run the command of a check; None: the runtime is not there."""
    program = check.command[0]
    try:
        with trio.fail_after(timeout_s):
            done = await execute(container, check.command)
    except trio.TooSlowError:
        text = f"{program} did not end within {duration_text(timeout_s)}"
        return Outcome(is_success=False, text=text)
    except NetagentError as error:
        if error.code != NOT_RUN:
            return None
        said = "".join(one if one.isprintable() else " " for one in str(error)[:MAX_SAID_CHARS])
        return Unasked(f"{program} cannot run: {said}")
    except OSError:
        return None
    if done is None:
        return Outcome(is_success=False, text=f"{program} of an earlier check has not ended, although killed")
    status, output = done
    return Outcome(
        is_success=status == 0, text=f"{program} exited with {status}", shown=shown_untrusted(output)
    )
