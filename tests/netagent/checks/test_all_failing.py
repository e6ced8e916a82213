"""Which services no replica keeps up."""

from __future__ import annotations

from typing import Any

from fakes.registry import H1, H2, N1, Writer, endpoint, host, network

from netagent.checks.all_failing import FailingService, failing_services
from netagent.commands.notices.name_notices import SHOWN, failing_notices
from netagent.control.present import Presenter
from netagent.model.ids import HostId
from netagent.model.records import AttachmentRecord, Drain, Group, Health, HealthNote
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState


class World:
    """What h1 knows of a network with h2 in it."""

    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2)}
        for number, owner in enumerate((H1, H2), 1):
            self.member(owner, MemberState.ALIVE)
            self.put(owner, host(f"h{number}"), AttachmentRecord(N1))
        self.put(H1, network())

    def put(self, owner: HostId, *records: Any) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def member(self, owner: str, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 7956), state, 1))

    def replica(self, owner: HostId, number: int, **fields: Any) -> None:
        usual: dict[str, Any] = {"offset": number + 1, "service": "web", "health": Health.UNHEALTHY}
        self.put(owner, endpoint(number, **usual | fields))

    def failing(self) -> list[FailingService]:
        return at_once(failing_services(self.view))

    def messages(self) -> list[str]:
        return [
            one["message"] for one in failing_notices(Presenter(self.view, "mesh.internal"), self.failing())
        ]


def sick(*, keeps_names: bool = False) -> HealthNote:
    return HealthNote(60, "http 503 from 80/, failed 3 of 3 times", keeps_names)


def test_a_service_fails_when_all_its_replicas_do() -> None:
    world = World()
    world.replica(H1, 1, health_note=sick())
    world.replica(H2, 2, health=Health.HEALTHY)
    assert world.failing() == []
    world.replica(H2, 2, health_note=sick())
    (found,) = world.failing()
    assert (found.name, len(found.unhealthy), found.has_names) == ("web", 2, False)
    (message,) = world.messages()
    assert message == (
        "no replica of service web of network app is up, and no name leads to it: web1 on h1 is unhealthy "
        "(http 503 from 80/, failed 3 of 3 times, since 1970-01-01 00:01:00 UTC), and 1 more"
    )


def test_those_that_start_are_drained_or_away_are_not_what_fails() -> None:
    world = World()
    world.replica(H1, 1, health=Health.STARTING)
    world.replica(H1, 2, drain=Drain(60, "anna"))
    world.replica(H2, 3)
    assert len(world.failing()) == 1, "of h2"
    world.member(H2, MemberState.DEAD)
    world.view = world.view.with_host_answers({H2: False})
    assert world.failing() == []
    world.member(H2, MemberState.ALIVE)
    world.put(H2, host("h2", drain=Drain(60, "anna")))
    assert world.failing() == []


def test_a_service_that_keeps_its_names_is_named_as_well() -> None:
    world = World()
    world.replica(H1, 1, health_note=sick(keeps_names=True), group=Group("shop", "web"), service="web1")
    assert world.messages()[0].startswith(
        "no replica of service web.shop of network app is up, and names lead to them all the same "
        "(--all-failing keep): web1 on h1 is unhealthy"
    )


def test_of_many_services_the_first_are_named() -> None:
    world = World()
    for number in range(1, SHOWN + 4):
        world.replica(H1, number, service=f"s{number:02}")
    messages = world.messages()
    assert len(messages) == SHOWN + 1
    assert messages[-1] == "3 services more have no replica that is up"
