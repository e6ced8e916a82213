"""A host h1 with `web1` in the network app, where h2 has `web2`: records, and the kernel that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from fakes.registry import H1, H2, H3, N1, Writer, endpoint, host, network
from fakes.rows import PUBLISHED

from netagent.datapath.host.uplink import Underlay
from netagent.datapath.state import KernelState
from netagent.doctor.checks.expected_objects import Situation, intended_state
from netagent.doctor.checks.object_checks import Evidence
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import ClusterId
from netagent.model.records import AttachmentRecord
from netagent.registry.local_rows import local_rows
from netagent.registry.state_store import Snapshot
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

CLUSTER = ClusterId("c1" * 16)
SITUATION = Situation(
    cluster_id=CLUSTER,
    domain="mesh.internal",
    underlay=Underlay("192.0.2.1", "eth0", 1500),
    vxlan_port=4799,
)


@dataclass
class World:
    view: RegistryView
    writers: dict[str, Writer]
    rows: dict[str, LocalEndpointRow]

    @property
    def known(self) -> Snapshot:
        return Snapshot(0, self.view, local_rows(self.rows), {})

    def put(self, owner, *records):
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def member(self, owner, state):
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 7956), state, 1))

    def kernel(self, **changes) -> KernelState:
        """As it should be, but for the changes."""
        return replace(at_once(intended_state(self.known, SITUATION)), **changes)

    def evidence(self, observed=None, **more) -> Evidence:
        desired = at_once(intended_state(self.known, SITUATION))
        return Evidence(
            view=self.view,
            rows=self.rows,
            situation=SITUATION,
            desired=desired,
            observed=desired if observed is None else observed,
            **more,
        )

    def endpoint(self, number):
        every = [*self.view.endpoints.values(), *self.view.fenced.values()]
        return next(one for one in every if one.record.name == f"web{number}")


@pytest.fixture
def world() -> World:
    made = World(RegistryView(H1), {owner: Writer(owner) for owner in (H1, H2, H3)}, {})
    for number, owner in enumerate((H1, H2), 1):
        made.member(owner, MemberState.ALIVE)
        made.put(
            owner,
            host(f"h{number}", underlay=f"192.0.2.{number}", probe_address=f"fd00::{number}"),
            AttachmentRecord(N1),
        )
    made.put(H1, network(), endpoint(1, offset=2))
    made.put(H2, endpoint(2, offset=3))
    record = endpoint(1, offset=2)
    made.rows[record.endpoint_id] = LocalEndpointRow(
        endpoint_id=record.endpoint_id,
        network_id=N1,
        name=record.name,
        service=record.service,
        offset=2,
        addresses=record.addresses,
        mac=record.mac,
        target="netns:web1",
        stage=PUBLISHED,
    )
    return made


@pytest.fixture
def situation() -> Situation:
    return SITUATION
