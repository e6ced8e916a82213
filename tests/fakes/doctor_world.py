"""What the doctor looks at: a view, rows of the journal, and the kernel that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fakes.registry import Writer
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.state import KernelState
from netagent.doctor.checks.expected_objects import Situation, intended_state
from netagent.doctor.checks.object_checks import Evidence
from netagent.doctor.explain import Extract
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import ClusterId, EndpointId, HostId
from netagent.registry.local_rows import local_rows
from netagent.registry.state_store import Snapshot
from netagent.registry.view import RegistryView
from netagent.registry.views import EndpointView
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
    writers: dict[HostId, Writer]
    rows: dict[EndpointId, LocalEndpointRow]

    @property
    def known(self) -> Snapshot:
        return Snapshot(0, self.view, local_rows(self.rows), {})

    def put(self, owner: HostId, *records: Any) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def member(self, owner: str, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 7956), state, 1))

    def kernel(self, **changes: Any) -> KernelState:
        """As it should be, but for the changes."""
        return replace(at_once(intended_state(self.known, SITUATION)), **changes)

    def evidence(self, observed: KernelState | None = None, **more: Any) -> Evidence:
        desired = at_once(intended_state(self.known, SITUATION))
        return Evidence(
            view=self.view,
            rows=self.rows,
            situation=SITUATION,
            desired=desired,
            observed=desired if observed is None else observed,
            **more,
        )

    def extracted(self, extract: Extract, observed: KernelState, **more: Any) -> Evidence:
        """What is gathered for a part of it: all devices and addresses, and of the entries those of the extract."""
        desired = at_once(intended_state(self.known, SITUATION, extract.endpoints))
        nothing = KernelState(
            devices=observed.devices, addresses=observed.addresses, unrouted=observed.unrouted
        )
        read = nothing.with_entries({key: observed.entry(key) for key in extract.keys})
        return replace(self.evidence(observed, **more), desired=desired, observed=read)

    def endpoint(self, number: int) -> EndpointView:
        every: list[EndpointView] = [*self.view.endpoints.values(), *self.view.fenced.values()]
        return next(one for one in every if one.record.name == f"web{number}")
