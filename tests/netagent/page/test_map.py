"""Who talks to whom, summed up between services."""

from __future__ import annotations

from typing import Any

from netagent.page.map import flows_between


def flow(
    source: str, target: str, openings: int = 1, refused: int = 0, network: str = "app"
) -> dict[str, Any]:
    return {
        "from": f"{source}1",
        "from_service": source,
        "from_host": "h1",
        "network": network,
        "to": f"{target}1",
        "to_service": target,
        "to_host": "h2",
        "address": "10.1.0.2",
        "protocol": "tcp",
        "port": 80,
        "openings": openings,
        "refused": refused,
    }


def test_flows_are_summed_up_between_services_that_are_drawn() -> None:
    flows = [
        flow("web", "db", 2),
        flow("web", "db", 3, 1),
        flow("db", "web"),
        flow("web", "x"),
        flow("web", "web"),
    ]
    assert flows_between(flows, {"web.app", "db.app"}) == [
        {"from": "db.app", "to": "web.app", "openings": 1, "refused": 0},
        {"from": "web.app", "to": "db.app", "openings": 5, "refused": 1},
    ]


def test_services_of_one_name_in_two_networks_are_two() -> None:
    flows = [flow("web", "db"), flow("web", "db", network="back")]
    found = flows_between(flows, {"web.app", "db.app", "web.back", "db.back"})
    assert [(one["from"], one["to"]) for one in found] == [("web.app", "db.app"), ("web.back", "db.back")]
