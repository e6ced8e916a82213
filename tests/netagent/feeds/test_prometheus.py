"""`prometheus`: by the published form of HTTP SD, <https://prometheus.io/docs/prometheus/latest/http_sd/>."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fakes.feed_tables import an_endpoint, body_of

from netagent.feeds.prometheus import prometheus
from netagent.feeds.table import FeedState
from netagent.model.records import Port

METRICS = (Port("http", 80), Port("metrics", 9100))
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def check_form(body: Any) -> None:
    """Check what the documentation says of the form, and Prometheus's data model of labels."""
    assert isinstance(body, list)
    for group in body:
        assert group.keys() == {"targets", "labels"}
        assert all(isinstance(target, str) and ":" in target for target in group["targets"])
        assert all(
            LABEL.fullmatch(name) and isinstance(value, str) for name, value in group["labels"].items()
        )


def test_ports_by_the_name_metrics_are_targets() -> None:
    body, flaws = body_of(prometheus, an_endpoint(1, ports=METRICS, labels={"team.a/b": "x"}), an_endpoint(2))
    check_form(body)
    assert flaws == ()
    (group,) = body
    assert group["targets"] == ["10.160.0.1:9100"]
    assert group["labels"] == {
        "__meta_netagent_network": "app",
        "__meta_netagent_service": "web",
        "__meta_netagent_group": "",
        "__meta_netagent_name": "web1",
        "__meta_netagent_id": f"{1:032x}",
        "__meta_netagent_host": "h1",
        "__meta_netagent_zone": "",
        "__meta_netagent_state": "up",
        "__meta_netagent_port_name": "metrics",
        "__meta_netagent_label_team_a_b": "x",
    }


def test_labels_choose_port_path_and_scheme() -> None:
    labels = {"prometheus.io/port": "80", "prometheus.io/path": "/m", "prometheus.io/scheme": "https"}
    body, _ = body_of(prometheus, an_endpoint(addresses=("fd00::1",), labels=labels))
    check_form(body)
    assert body[0]["targets"] == ["[fd00::1]:80"]
    assert body[0]["labels"]["__meta_netagent_port_name"] == "http"
    assert body[0]["labels"]["__metrics_path__"] == "/m"
    assert body[0]["labels"]["__scheme__"] == "https"


@pytest.mark.parametrize(
    "wrong", [{"prometheus.io/port": "0"}, {"prometheus.io/path": "m"}, {"prometheus.io/scheme": "ftp"}]
)
def test_a_wrong_label_is_left_out_alone(wrong: dict[str, str]) -> None:
    body, flaws = body_of(prometheus, an_endpoint(ports=METRICS, labels=wrong))
    check_form(body)
    assert len(body) == 1
    assert len(flaws) == 1
    assert not {"__metrics_path__", "__scheme__"} & body[0]["labels"].keys()


def test_the_sick_are_watched_and_hosts_that_are_down_are_not() -> None:
    states = (FeedState.UNHEALTHY, FeedState.DRAINED, FeedState.STARTING, FeedState.HIDDEN)
    endpoints = [an_endpoint(number, ports=METRICS, state=one) for number, one in enumerate(states, 1)]
    body, _ = body_of(prometheus, *endpoints)
    assert [group["labels"]["__meta_netagent_state"] for group in body] == [
        "unhealthy",
        "drained",
        "starting",
    ]


def test_no_targets_are_an_empty_list() -> None:
    assert body_of(prometheus, an_endpoint()) == ([], ())
