"""The files under docs/monitoring: the rules by promtool, and that all of them name metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MONITORING = ROOT / "docs" / "monitoring"
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"

METRIC = re.compile(r"\b(?:netagent|process)_[a-z_]+")
SUFFIX = re.compile(r"_(?:total|bucket|sum|count|info)$")


def documented() -> set[str]:
    return set(re.findall(r"^\| `((?:netagent|process)_[a-z_]+)` \|", REFERENCE.read_text(), re.MULTILINE))


def expressions() -> dict[str, str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    panels = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    rules = re.findall(r"alert: (\w+)\n\s+expr: (?:>\n)?(.*?)\n\s+(?:for|labels):", RULES, re.DOTALL)
    return panels | dict(rules)


RULES = (MONITORING / "alerts.yml").read_text()
EXPRESSIONS = expressions()


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]])
def test_promtool_finds_the_rules_right(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_has_a_test_that_fires_and_one_that_does_not() -> None:
    tested = (MONITORING / "alerts.test.yml").read_text()
    names = re.findall(r"- alert: (\w+)", RULES)
    assert len(names) > 10
    for name in names:
        assert f"name: {name} fires\n" in tested
        assert f"name: {name} is calm\n" in tested


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_asked_for_exists(name: str) -> None:
    wanted = set(METRIC.findall(EXPRESSIONS[name])) - {"netagent_"}
    found = {one if one in documented() else SUFFIX.sub("", one) for one in wanted}
    assert found <= documented()
