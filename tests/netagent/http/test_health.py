"""What a load balancer outside the cluster is answered."""

from __future__ import annotations

import dataclasses

from fakes.registry import H1, H2, N2, Writer, endpoint, host, network

from netagent.http.health import HealthAnswer, service_health
from netagent.model.ids import HostId
from netagent.model.records import Drain, Group, Health, Record
from netagent.registry.view import RegistryView


def view_of(*records: tuple[HostId, Record]) -> RegistryView:
    writers = {owner: Writer(owner) for owner in (H1, H2)}
    view = RegistryView(H1)
    every: tuple[tuple[HostId, Record], ...] = (
        (H1, host("h1")),
        (H2, host("h2")),
        (H1, network()),
        (H1, network(N2, "back", subnets=("10.2.0.0/24", "fd00:2::/64"))),
        *records,
    )
    for owner, record in every:
        view = view.with_entries(writers[owner].put(record))
    return view


def health(
    view: RegistryView, name: str = "web", network: str | None = None, group: str | None = None
) -> HealthAnswer:
    return service_health(view, name, network, group)


def test_only_replicas_of_this_host_count() -> None:
    there = view_of((H2, endpoint(1)))
    assert health(there) == HealthAnswer(503, "down", "web.app: no replica of it runs on this host", 0, 0)
    here = view_of((H2, endpoint(1)), (H1, endpoint(2, offset=3)))
    assert health(here) == HealthAnswer(200, "up", "", 1, 1)


def test_a_host_without_a_replica_in_names_is_down() -> None:
    sick = endpoint(2, offset=3, health=Health.UNHEALTHY)
    down = HealthAnswer(503, "down", "web.app: none of its replicas here is in names", 1, 0)
    assert health(view_of((H1, sick))) == down
    drained = endpoint(2, offset=3, drain=Drain(1, "anna"))
    assert health(view_of((H1, drained))) == down
    leaving = view_of((H1, endpoint(2, offset=3)), (H1, dataclasses.replace(host("h1"), going_down=True)))
    assert health(leaving) == down
    assert health(view_of((H1, sick), (H1, endpoint(3, offset=4)))) == HealthAnswer(200, "up", "", 2, 1)


def test_a_name_that_is_not_known_or_means_several_services_is_said() -> None:
    view = view_of((H1, endpoint(1)), (H1, endpoint(2, N2, addresses=("10.2.0.2", "fd00:2::2"))))
    assert health(view, "db").status == 404
    assert health(view, network="nowhere").status == 404
    both = health(view)
    assert (both.status, both.cause) == (400, "2 services match: web.app, web.back; add ?network= or ?group=")
    assert health(view, network="back").status == 200


def test_a_group_chooses_its_own_service() -> None:
    of_shop = endpoint(1, name="web", group=Group("shop", "web"))
    view = view_of((H1, of_shop), (H2, endpoint(2, offset=3)))
    assert health(view).status == 400
    assert health(view, group="shop").status == 200
    assert health(view, group="blog").status == 404
