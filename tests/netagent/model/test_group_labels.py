"""What a group has had is known as long as the group, within bounds."""

from __future__ import annotations

from fakes.registry import H1, H2, N1, N2, Writer, endpoint, network
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.group_labels import MAX_ABSENT, GroupLabels
from netagent.model.ids import NetworkId
from netagent.model.records import Group
from netagent.registry.view import RegistryView
from netgossip.types import EntriesChanged

SHOP_DB, SHOP_WEB = Group("shop", "db"), Group("shop", "web")


def view_of(*events: EntriesChanged, view: RegistryView | None = None) -> RegistryView:
    view = view or RegistryView(H1)
    for one in events:
        view = view.with_entries(one)
    view.check_invariants()
    return view


def test_a_label_stays_known_when_its_last_endpoint_has_gone() -> None:
    one, two = Writer(H1), Writer(H2)
    db = endpoint(1, name="shop-db-1", service="shop-db-1", group=SHOP_DB, aliases=("pg",))
    web = endpoint(2, offset=3, name="shop-web-1", service="shop-web-1", group=SHOP_WEB)
    view = view_of(one.put(network()), one.put(web), two.put(db))
    labels = view.labels_of(N1, "shop")
    assert (labels.records, labels.own) == (2, 1)
    assert set(labels.present) == {"db", "shop-db-1", "pg", "web", "shop-web-1"}
    view = view_of(two.delete(db), view=view)
    labels = view.labels_of(N1, "shop")
    assert set(labels.absent) == {"db", "shop-db-1", "pg"}
    assert "db" in labels
    assert view.labels_of(N2, "shop") == view.labels_of(N1, "blog") == GroupLabels()
    again = endpoint(3, offset=4, name="shop-db-2", service="shop-db-2", group=SHOP_DB)
    assert set(view_of(two.put(again), view=view).labels_of(N1, "shop").absent) == {"shop-db-1", "pg"}


def test_a_changed_record_of_the_only_endpoint_leaves_what_the_group_has_had() -> None:
    one = Writer(H1)
    view = view_of(one.put(network()), one.put(endpoint(1, name="a", group=SHOP_WEB, aliases=("old",))))
    view = view_of(one.put(endpoint(1, name="a", group=SHOP_WEB, aliases=("new",))), view=view)
    labels = view.labels_of(N1, "shop")
    assert (set(labels.present), labels.absent) == ({"a", "web", "new"}, ("old",))


def test_a_group_is_forgotten_on_request_and_only_without_an_endpoint() -> None:
    one = Writer(H1)
    db = endpoint(1, group=SHOP_DB)
    view = view_of(one.put(network()), one.put(db))
    assert view.without_labels_had([(N1, "shop"), (N2, "shop")]) is view
    view = view_of(one.delete(db), view=view)
    assert "db" in view.labels_of(N1, "shop")
    assert view.without_labels_had([(N1, "shop")]).labels_of(N1, "shop") == GroupLabels()


def test_what_the_journal_knew_is_older_than_what_has_gone_since() -> None:
    one = Writer(H1)
    db, web = endpoint(1, name="db", group=SHOP_DB), endpoint(2, offset=3, name="web", group=SHOP_WEB)
    view = view_of(one.put(network()), one.put(db), one.put(web), one.delete(db))
    view = view.with_labels_had({(N1, "shop"): ["older", "web", "db"], (NetworkId("f" * 32), "x"): ["y"]})
    view.check_invariants()
    assert view.labels_of(N1, "shop").absent == ("older", "db")


def test_a_group_that_loses_thousands_of_labels_in_one_edit_keeps_the_latest_at_bounded_cost() -> None:
    labels = GroupLabels()
    for number in range(2000):
        labels = labels.with_endpoint([f"a{number}"], is_own=False)
    for number in range(2000):
        labels = labels.without_endpoint([f"a{number}"], is_own=False)
        assert len(labels.absent) <= 4 * MAX_ABSENT
    assert labels.settled().absent == tuple(f"a{number}" for number in range(2000 - MAX_ABSENT, 2000))


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 99), max_size=3, unique=True)), max_size=60))
def test_the_labels_are_those_of_all_endpoints_up_to_the_bound(steps: list[tuple[bool, list[int]]]) -> None:
    labels, there, left = GroupLabels(), list[list[str]](), list[str]()
    for comes, numbers in steps:
        if comes:
            there.append([f"n{number}" for number in numbers])
            labels = labels.with_endpoint(there[-1], is_own=False).settled()
        elif there:
            gone = there.pop(0)
            left += [one for one in gone if not any(one in others for others in there)]
            labels = labels.without_endpoint(gone, is_own=False).settled()
        present = {one for others in there for one in others}
        left = [one for one in left if one not in present][-MAX_ABSENT:]
        assert (labels.records, set(labels.present)) == (len(there), present)
        assert list(labels.absent) == left
