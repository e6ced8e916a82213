"""This host's endpoints as a value: whatever comes and goes, it is found as by a walk through all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fakes.rows import PUBLISHED, local_row
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netagent.journal.rows import Bound, LocalEndpointRow, Reserved
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.publication import Publication
from netagent.model.sandbox import Netns
from netagent.registry.changelog import MAX_STEPS
from netagent.registry.local_rows import LocalRows, folder_of, local_rows

IDS = [EndpointId(f"{number:x}" * 32) for number in range(6)]
NETWORKS = [NetworkId(f"{number:x}" * 32) for number in range(2)]
PUBLICATION = Publication(8080, 80, "tcp")


def row(endpoint_id: EndpointId = IDS[0], **fields: Any) -> LocalEndpointRow:
    given: dict[str, Any] = {"network_id": NETWORKS[0]} | fields
    return local_row(endpoint_id, **given)


class Rows(RuleBasedStateMachine):
    """A dict is the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = LocalRows()
        self.oracle: dict[EndpointId, LocalEndpointRow] = {}
        self.earlier = [(self.rows, dict(self.oracle))]

    @rule(
        endpoint_id=st.sampled_from(IDS),
        network_id=st.sampled_from(NETWORKS),
        name=st.sampled_from(["web", "db"]),
        netns=st.none()
        | st.builds(
            Netns,
            st.sampled_from(["/run/netns/a", "/run/netns/b", "/proc/7/ns/net"]),
            st.sampled_from([(4, 1), (4, 2)]),
            st.sampled_from(["b", "c"]),
        ),
        origin=st.sampled_from([None, "docker:1", "docker:2"]),
        publish=st.sampled_from([(), (PUBLICATION,)]),
    )
    def put(self, endpoint_id: EndpointId, netns: Netns | None, **fields: object) -> None:
        one = row(endpoint_id, stage=Reserved() if netns is None else Bound(netns), **fields)
        self.rows, self.oracle = self.rows.with_row(one), {**self.oracle, endpoint_id: one}

    @rule(endpoint_id=st.sampled_from(IDS))
    def drop(self, endpoint_id: EndpointId) -> None:
        self.rows = self.rows.without_row(endpoint_id)
        self.oracle = {known: one for known, one in self.oracle.items() if known != endpoint_id}

    @rule()
    def remember(self) -> None:
        self.earlier.append((self.rows, dict(self.oracle)))

    @invariant()
    def all_is_found(self) -> None:
        rows, every = self.rows, list(self.oracle.values())
        assert list(rows.items()) == list(self.oracle.items()), "in the order of attaching"
        assert list(rows.listed()) == every
        assert len(rows) == len(every)
        assert rows.networks == {one.network_id for one in every}
        assert set(rows.publishing()) == {one for one in every if one.publish}
        for network_id in NETWORKS:
            assert dict(rows.in_network(network_id)) == {
                one.endpoint_id: one for one in every if one.network_id == network_id
            }
            for name in ("web", "db"):
                same = [one for one in every if (one.network_id, one.name) == (network_id, name)]
                assert rows.called(network_id, name) == same
        for identity in ((4, 1), (4, 2)):
            assert rows.in_namespace(identity) == [one for one in every if one.netns_identity == identity]
        for one in every:
            mates = [other for other in every if one.netns is not None and other.sandbox_id == one.sandbox_id]
            assert rows.mates_of(one) == mates
            if one.netns is not None:
                assert rows.folders[folder_of(one.netns.path)][one.endpoint_id] == one
                assert one in rows.with_path(one.netns.path)
            if one.origin is not None:
                found = rows.with_origin(one.origin)
                assert found is not None
                assert found.origin == one.origin
        assert sum(map(len, rows.folders.values())) == sum(one.netns is not None for one in every)

    @invariant()
    def what_was_not_touched_is_as_it_was(self) -> None:
        for rows, oracle in self.earlier:
            assert dict(rows) == oracle, "a value never changes"
            touched = self.rows.touched_since(rows)
            assert touched is not None
            differing = {one for one in {*oracle, *self.oracle} if oracle.get(one) != self.oracle.get(one)}
            assert differing <= touched


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_who_comes_too_late_or_from_elsewhere_looks_everywhere() -> None:
    first = rows = local_rows({IDS[0]: row()})
    for number in range(MAX_STEPS + 5):
        rows = rows.with_row(row(name=f"x{number}"))
    assert rows.touched_since(first) is None
    assert LocalRows([row()]).touched_since(first) is None
    assert rows.touched_since(rows) == frozenset()


def test_networks_are_the_same_object_as_long_as_they_are_the_same() -> None:
    rows = LocalRows([row(IDS[0]), row(IDS[1])])
    networks = rows.networks
    changed = rows.with_row(replace(row(IDS[0]), stage=PUBLISHED)).without_row(IDS[1])
    assert changed.networks is networks
    assert changed.without_row(IDS[0]).networks == frozenset()
