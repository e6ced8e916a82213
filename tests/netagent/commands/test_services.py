"""Which service a command means."""

from __future__ import annotations

import pytest
from fakes.external import service
from fakes.registry import H1, N1, N2, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range

from netagent.commands import services
from netagent.control.present import Presenter
from netagent.errors import InputError, NotFoundError
from netagent.interface.services import ServiceInspectCommand, ServiceRemoveCommand, ServiceSetCommand
from netagent.model.records import Group, ServiceKey
from netagent.registry.view import RegistryView


@pytest.fixture
def present() -> Presenter:
    """`web` and `web.shop` with an address in app, `web` and `db.shop` in db; `api` without one, `pg` outside."""
    view, writer = RegistryView(H1), Writer(H1)
    second = {"name": "db", "subnets": ("10.2.0.0/24", "fd00:2::/64")}
    for record in (
        host("h1"),
        network(),
        network(N2, **second),  # type: ignore[arg-type] # two of NetworkFields
        service_range(),
        service_range(2, N2),
        service_address(),
        service_address(offset=6, group="shop"),
        service_address(network_id=N2, within=2),
        service_address("db", offset=6, network_id=N2, within=2, group="shop"),
        endpoint(service="api"),
        endpoint(2, offset=3, name="job", service="job", group=Group("shop", "job")),
        service(),
    ):
        view = view.with_entries(writer.put(record))
    return Presenter(view, "mesh.internal")


def called(present: Presenter, text: str, **options: str) -> str:
    request = ServiceSetCommand(service=text, **options)
    network, key = services._one_called(present, request, services._with_address(present))
    return services._spelled(network, key)


AT_6 = (service_address(offset=6).addresses[1].upper(),)


@pytest.mark.parametrize(
    ("text", "options", "meant"),
    [
        ("web.app", {}, "web.app"),
        ("web", {"network": "app"}, "web.app"),
        ("web", {"network": "app", "group": "shop"}, "web.shop.app"),
        ("web.shop", {}, "web.shop.app"),
        ("web.shop.app", {}, "web.shop.app"),
        ("web.shop.app.mesh.internal.", {}, "web.shop.app"),
        ("Web.DB", {}, "web.db"),
        ("db", {}, "db.shop.db"),
        ("db.shop", {"group": "shop"}, "db.shop.db"),
        (*AT_6, {}, "web.shop.app"),
        (*AT_6, {"network": "app", "group": "shop"}, "web.shop.app"),
    ],
)
def test_a_service_is_called_by_name_group_and_network(
    present: Presenter, text: str, options: dict[str, str], meant: str
) -> None:
    assert called(present, text, **options) == meant


def test_a_name_of_several_services_asks_which(present: Presenter) -> None:
    with pytest.raises(InputError, match=r"'web' is ambiguous: web\.app, web\.db; give --network"):
        called(present, "web")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (*AT_6, {"network": "db"}),
        (*AT_6, {"group": "blog"}),
        ("10.9.1.99", {}),
        ("api", {}),
        ("pg", {}),
        ("web.shop.db", {}),
        ("web", {"group": "blog"}),
        ("shop", {}),
        ("", {}),
    ],
)
def test_a_service_without_an_address_is_not_changed(
    present: Presenter, text: str, options: dict[str, str]
) -> None:
    with pytest.raises(NotFoundError, match=f"there is no service with an address '{text}'"):
        called(present, text, **options)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("api", ServiceKey("api")),
        ("job", ServiceKey("job", "shop")),
        ("job.shop.app", ServiceKey("job", "shop")),
        ("pg.app", ServiceKey("pg")),
        ("db.shop", ServiceKey("db", "shop")),
    ],
)
def test_any_service_can_be_looked_at(present: Presenter, text: str, key: ServiceKey) -> None:
    request = ServiceInspectCommand(service=text)
    places = services._with_anything(present, text)
    assert services._one_called(present, request, places)[1] == key


def test_what_was_added_is_called_by_its_id_too(present: Presenter) -> None:
    for text in ("pg", "pg.app", service().service_id):
        ((found, key),) = services._added_called(present, ServiceRemoveCommand(service=text))
        assert (found.network_id, key) == (N1, ServiceKey("pg"))
    assert services._added_called(present, ServiceRemoveCommand(service="pg", group="shop")) == []
