"""A host h1 with `web1` in the network app, where h2 has `web2`: records, and the kernel that follows from them."""

from __future__ import annotations

import pytest
from fakes.doctor_world import SITUATION, World
from fakes.registry import H1, H2, H3, N1, Writer, endpoint, host, network
from fakes.rows import PUBLISHED

from netagent.doctor.checks.expected_objects import Situation
from netagent.journal.rows import LocalEndpointRow
from netagent.model.records import (
    AttachmentRecord,
)
from netagent.registry.view import RegistryView
from netgossip.types import MemberState


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
