"""What a host asks for while the owners are away is bounded, whatever their records ask."""

from __future__ import annotations

from fakes.external import at, service, service_id
from fakes.registry import H1, H2, H3, N1, N2

from netagent.external.turns import MAX_CHECKS, MAX_SERVICES, TakenOver
from netagent.external.view import ExternalAddress, ExternalService, ExternalState
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import FixedAddresses


def of(owner: HostId, number: int, network_id: NetworkId = N1, addresses: int = 1) -> ExternalService:
    target = at(*(f"203.0.113.{last}" for last in range(addresses)))
    assert isinstance(target, FixedAddresses)
    record = service(number, network_id, target=target, checks=("tcp:5432",))
    places = tuple(ExternalAddress(one, ExternalState.UP) for one in target.addresses)
    return ExternalService(record, owner, places)


def test_of_each_owner_and_network_the_first_are_taken_over() -> None:
    taken = TakenOver()
    for number in reversed(range(1, 2 * MAX_SERVICES)):
        taken.add(of(H2, number))
    taken.add(of(H2, 5000, N2))
    taken.add(of(H3, 5001))
    first = {service_id(number): H2 for number in range(1, MAX_SERVICES + 1)}
    assert taken.chosen() == first | {service_id(5000): H2, service_id(5001): H3}


def test_checks_are_bounded_and_an_owner_with_many_leaves_room_for_the_others() -> None:
    taken = TakenOver()
    for number in range(1, MAX_SERVICES + 1):
        taken.add(of(H1, number, addresses=32))
    for number in range(5000, 5010):
        taken.add(of(H3, number))
    chosen = taken.chosen()
    assert sum(owner == H3 for owner in chosen.values()) == 10
    assert sum(owner == H1 for owner in chosen.values()) == (MAX_CHECKS - 10) // 32
