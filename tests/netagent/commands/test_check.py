"""`netagent check`: it ends in a time that the client knows, whatever the programs do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from fakes.registry import H1
from fakes.rows import PUBLISHED, local_row
from fakes.virtual import virtual

from netagent.checks.spec import parse_check_untrusted
from netagent.commands import containers
from netagent.interface.containers import CHECK_WAIT_S, CheckCommand
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView


@virtual
async def test_a_check_ends_within_the_time_that_the_client_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    live = StateStore(RegistryView(H1), {})
    check = parse_check_untrusted("exec:/bin/ready timeout=1m")
    for number in range(30):
        live.set_row(
            local_row(f"{number:032x}", "a" * 32, name=f"w{number}", stage=PUBLISHED, checks=(check,))
        )

    async def ask_now(_: object) -> list[Any]:
        await trio.sleep(60.0)
        return [(check, None, 60.0)]

    monkeypatch.setattr(
        containers, "endpoint_part", lambda *_: {"network": "app", "state": "up", "reason": ""}
    )
    cluster = SimpleNamespace(live=live, checks=SimpleNamespace(ask_now=ask_now))
    agent = cast("Any", SimpleNamespace(member=lambda: cluster))
    request = CheckCommand(endpoint="web")
    assert request.work_s == CHECK_WAIT_S
    began = trio.current_time()
    answer = await containers.check(agent, request)
    assert trio.current_time() - began <= request.work_s
    says = [one["results"][0]["says"] for one in answer["endpoints"]]
    assert len(says) == 30
    assert says.count("not asked: the others took 120 s") >= 14
    assert not answer["healthy"]
