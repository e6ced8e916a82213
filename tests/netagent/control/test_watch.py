import json
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from netagent.control.schema import SCHEMA
from netagent.control.watch import changes, writing
from netagent.pieces import at_once

ITEMS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3)).map(
    lambda values: [{"id": key, "value": value} for key, value in values.items()]
)


def test_changes_are_told_apart_by_id() -> None:
    before = {"a": {"id": "a", "value": 1}, "b": {"id": "b", "value": 1}}
    after = [{"id": "c", "value": 1}, {"id": "b", "value": 2}]
    assert changes(before, after) == [
        {"event": "added", "item": {"id": "c", "value": 1}},
        {"event": "changed", "item": {"id": "b", "value": 2}},
        {"event": "removed", "item": {"id": "a", "value": 1}},
    ]


@given(ITEMS, ITEMS)
def test_changes_applied_to_the_old_list_give_the_new_one(
    before: list[dict[str, object]], after: list[dict[str, object]]
) -> None:
    state = {item["id"]: item for item in before}
    for event in changes(state.copy(), after):
        item = event["item"]
        assert isinstance(item, dict)
        if event["event"] == "removed":
            del state[item["id"]]
        else:
            state[item["id"]] = item
    assert state == {item["id"]: item for item in after}
    assert changes(state, after) == []


@given(ITEMS)
def test_a_list_is_written_an_item_at_a_time(items: list[dict[str, object]]) -> None:
    rest = list[Mapping[str, object]](items)
    pieces = writing(rest)
    for number in range(len(items)):
        next(pieces)
        assert len(rest) == len(items) - number - 1
    assert json.loads(at_once(pieces)) == {"schema": SCHEMA, "items": items}
