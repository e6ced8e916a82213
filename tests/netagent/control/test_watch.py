from __future__ import annotations

import json
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from netagent.control.watch import ITEMS_A_PART, changes, encode_list, encode_object
from netagent.interface.schema import SCHEMA
from netgossip.slices import at_once

ITEMS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3)).map(
    lambda values: [{"id": key, "value": value} for key, value in values.items()]
)


def test_items_are_compared_by_id() -> None:
    before: dict[object, Mapping[str, object]] = {
        "a": {"id": "a", "value": 1},
        "b": {"id": "b", "value": 1},
    }
    after = [{"id": "c", "value": 1}, {"id": "b", "value": 2}]
    assert at_once(changes(before, after)) == [
        {"event": "added", "item": {"id": "c", "value": 1}},
        {"event": "changed", "item": {"id": "b", "value": 2}},
        {"event": "removed", "item": {"id": "a", "value": 1}},
    ]


@given(ITEMS, ITEMS)
def test_changes_applied_to_the_old_list_give_the_new_one(
    before: list[dict[str, object]], after: list[dict[str, object]]
) -> None:
    state: dict[object, Mapping[str, object]] = {item["id"]: item for item in before}
    for event in at_once(changes(state.copy(), after)):
        item = event["item"]
        assert isinstance(item, dict)
        if event["event"] == "removed":
            del state[item["id"]]
        else:
            state[item["id"]] = item
    assert state == {item["id"]: item for item in after}
    assert at_once(changes(state, after)) == []


@given(ITEMS)
def test_a_list_is_written_an_item_at_a_time(items: list[dict[str, object]]) -> None:
    rest = list[Mapping[str, object]](items)
    pieces = encode_list(rest)
    for number in range(len(items)):
        next(pieces)
        assert len(rest) == len(items) - number - 1
    assert json.loads(b"".join(at_once(pieces))) == {"schema": SCHEMA, "items": items}


@given(ITEMS)
def test_a_thing_with_a_long_list_is_written_an_item_at_a_time(items: list[dict[str, object]]) -> None:
    thing = {"kind": "network", "endpoints": list(items), "id": "0a"}
    pieces = encode_object(thing, long="endpoints")
    stops = 0
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            parts = end.value
            break
        stops += 1
    assert stops >= len(items)
    assert json.loads(b"".join(parts)) == {"schema": SCHEMA, **thing, "endpoints": items}


def test_a_long_list_goes_out_in_parts() -> None:
    items: list[Mapping[str, object]] = [{"id": number} for number in range(10 * ITEMS_A_PART)]
    parts = at_once(encode_list(items))
    assert len(parts) == 10 + 2
    assert max(map(len, parts)) <= ITEMS_A_PART * len(b'{"id": 999}, ')
