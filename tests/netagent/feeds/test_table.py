"""What all feeds share."""

from __future__ import annotations

import pytest
from fakes.feed_tables import an_endpoint

from netagent.feeds.table import MAX_FLAWS, FeedState, Flaws, at_port, http_port, leading
from netagent.model.records import Port

UP, UNREACHED = FeedState.UP, FeedState.UNREACHED


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


def test_kept_replicas_lead_where_there_is_no_other_and_weight_0_only_among_itself() -> None:
    kept = an_endpoint(1, state=FeedState.UNHEALTHY, is_kept=True)
    sick = an_endpoint(2, state=FeedState.UNHEALTHY)
    last, up = an_endpoint(3, weight=0), an_endpoint(4)
    assert leading([kept, sick]) == [kept]
    assert leading([kept, sick, last]) == [last]
    assert leading([kept, last, up]) == [up]


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
