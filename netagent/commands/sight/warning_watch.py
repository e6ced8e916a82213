"""The task that notes when a warning of `status` begins and when it is over, although no operator looks.

It makes the same answer as `netagent status`, so no warning can be forgotten here. That answer costs more where the
cluster is larger: so the task rests in proportion to what a look has cost.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import trio

from netagent.commands.status import status_of
from netagent.daemon.agent import Agent
from netagent.events.kinds import EventKind
from netagent.events.sources.view_watch import tell
from netagent.events.sources.warning_changes import WarningChanges
from netagent.log import Limited
from netgossip.slice_runner import in_slices

FIRST_LOOK_S: Final = 15.0
"""After a start much is not known yet, and would be a warning for a moment."""
LOOK_S: Final = 60.0
LONGEST_REST_S: Final = 300.0
REST_PER_WORK: Final = 1000
"""So many times as long as a look has computed the task rests: it takes at most a thousandth of a core."""

_limited = Limited(logging.getLogger("netagent.events"))


async def watch_warnings(agent: Agent) -> None:
    """Look until cancelled, from the start of the agent on."""
    await agent.ready.wait()
    changes = WarningChanges()
    earlier = await in_slices(agent.events.log.chosen(kinds={EventKind.WARNING.value}))
    changes.restore((one.subject, one.text) for one in earlier)
    rest_s = FIRST_LOOK_S
    while True:
        await trio.sleep(rest_s)
        began = time.thread_time()
        try:
            warnings = (await status_of(agent))["warnings"]
        except Exception as error:  # a warning that cannot be made must not end the agent
            _limited.warning("look", f"cannot look for warnings: {type(error).__name__}: {error}")
        else:
            for news in changes.look((one["code"], one["message"]) for one in warnings):
                tell(news)
        rest_s = min(max(LOOK_S, REST_PER_WORK * (time.thread_time() - began)), LONGEST_REST_S)
