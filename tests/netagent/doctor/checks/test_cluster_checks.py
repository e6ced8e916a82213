"""What `status` warns of, as checks."""

from __future__ import annotations

import re
from pathlib import Path

from netagent.doctor.checks import cluster_checks
from netagent.doctor.checks.cluster_checks import ALONE_CHECKS, CLUSTER_CHECKS, StatusWarning
from netagent.doctor.checks.finding import CheckVerdict, examine, is_healthy

COMMANDS = Path(cluster_checks.__file__).parents[2] / "commands"


def test_each_warning_is_one_finding_or_anothers() -> None:
    said = {
        code
        for file in ("status.py", "notices/path_notices.py", "notices/agent_notices.py")
        for code in re.findall(r'"code": "([a-z-]+)"', (COMMANDS / file).read_text("utf-8"))
    }
    assert {"agent-dead", "path-down", "network-full", "overlap"} <= said
    for code in said:
        outcomes = examine(CLUSTER_CHECKS, [StatusWarning(code, "a message", "a cure")])
        found = [finding for outcome in outcomes for finding in outcome.findings]
        assert len(found) == (0 if code in cluster_checks._ELSEWHERE else 1), code
        assert all((one.message, one.fix) == ("a message", "a cure") for one in found)


def test_a_path_that_is_down_fails_and_a_dead_agent_warns() -> None:
    down = examine(CLUSTER_CHECKS, [StatusWarning("path-down", "nothing passes", "let it pass")])
    dead = examine(CLUSTER_CHECKS, [StatusWarning("agent-dead", "it does not run", "start it")])
    assert not is_healthy(down)
    assert is_healthy(dead)
    assert [one.name for one in dead if one.verdict is CheckVerdict.WARNING] == ["agents"]


def test_a_warning_that_no_row_knows_is_not_lost() -> None:
    outcomes = examine(CLUSTER_CHECKS, [StatusWarning("something-new", "a message", "a cure")])
    assert [one.name for one in outcomes if one.findings] == ["other-warnings"]


def test_a_host_in_no_cluster_does_not_say_that_paths_and_agents_are_well() -> None:
    outcomes = {
        one.name: one for one in examine(ALONE_CHECKS, [StatusWarning("config", "a message", "a cure")])
    }
    unknown = {name for name, one in outcomes.items() if one.verdict is CheckVerdict.NOT_KNOWN}
    assert unknown == {"agents", "paths", "address-space", "name-servers", "identities"}
    assert outcomes["configuration"].verdict is CheckVerdict.FAILED
    assert outcomes.keys() == {one.name for one in CLUSTER_CHECKS}
