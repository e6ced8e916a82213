"""What all feeds share."""

from __future__ import annotations

import json

import pytest
import yaml  # type: ignore[import-untyped]
from fakes.feed_tables import an_endpoint
from hypothesis import given
from hypothesis import strategies as st

from netagent.feeds.table import MAX_FLAWS, FeedState, Flaws, at_port, encoded, http_port, leading
from netagent.model.records import Port
from netgossip.slices import at_once

UP, UNREACHED = FeedState.UP, FeedState.UNREACHED
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def text_of(value: object) -> str:
    return "".join(at_once(encoded(value)))


@given(JSON)
def test_a_value_encoded_in_parts_is_the_value(value: object) -> None:
    assert json.loads(text_of(value)) == value


def test_the_same_value_is_the_same_text() -> None:
    assert text_of({"b": {"d": 1, "c": 2}, "a": []}) == text_of({"a": [], "b": {"c": 2, "d": 1}})


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=4))
def test_yaml_reads_the_same_as_json(value: dict[str, str]) -> None:
    """Traefik reads the body of its HTTP provider as YAML."""
    assert yaml.safe_load(text_of(value)) == value


def test_many_values_are_encoded_in_slices() -> None:
    slices = encoded({"services": {str(number): {"port": number} for number in range(1000)}})
    assert sum(1 for _ in slices) >= 1000


@pytest.mark.parametrize(
    ("states", "lead"),
    [
        ([UP, UNREACHED, FeedState.UNHEALTHY], [0]),
        ([UNREACHED, FeedState.STARTING], [0]),
        ([FeedState.DRAINED, FeedState.HIDDEN], []),
    ],
)
def test_feeds_lead_where_names_lead(states: list[FeedState], lead: list[int]) -> None:
    endpoints = [an_endpoint(number, state=state) for number, state in enumerate(states)]
    assert leading(endpoints) == [endpoints[number] for number in lead]


def test_an_ipv6_address_is_in_brackets() -> None:
    assert at_port("fd00::1", 80) == "[fd00::1]:80"
    assert at_port("10.0.0.1", 80) == "10.0.0.1:80"


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ([Port("web", 8080), Port("http", 80)], 80),
        ([Port("https", 443), Port("metrics", 9100)], 443),
        ([Port("web", 8080)], 8080),
        ([Port("web", 8080), Port("dns", 53, "udp")], 8080),
        ([Port("web", 8080), Port("admin", 8081)], None),
        ([Port("dns", 53, "udp")], None),
    ],
)
def test_which_port_speaks_http(ports: list[Port], found: int | None) -> None:
    port = http_port(an_endpoint(ports=tuple(ports)))
    assert (port and port.number) == found


def test_flaws_are_bounded_and_none_is_doubled() -> None:
    flaws = Flaws()
    for number in range(3 * MAX_FLAWS):
        flaws.add(an_endpoint(), f"wrong {number // 2}")
    assert len(flaws.sentences) == MAX_FLAWS
    assert next(iter(flaws.sentences)) == "web.app (on h1): wrong 0"
