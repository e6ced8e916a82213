"""Names that lead somewhere else than is expected, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, host, network

from netagent.model.records import Group
from netagent.registry.shared_names import shared_names, split_projects
from netagent.registry.view import RegistryView
from netgossip.slices import at_once


def view_of(*records: Any) -> RegistryView:
    """By (owner, endpoint fields), numbered from 1."""
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    for number, owner in enumerate((H1, H2, H3), 1):
        view = view.with_entries(writers[owner].put(host(f"h{number}")))
    view = view.with_entries(writers[H1].put(network(N1, "app")))
    view = view.with_entries(writers[H1].put(network(N2, "back", subnets=("10.2.0.0/24", "fd00:2::/64"))))
    for number, (owner, fields) in enumerate(records, 1):
        network_id = fields.pop("network_id", N1)
        net = 1 if network_id == N1 else 2
        fields.setdefault("service", fields["name"])
        addresses = (f"10.{net}.0.{number + 1}", f"fd00:{net}::{number + 1:x}")
        record = endpoint(number, network_id, addresses=addresses, **fields)
        view = view.with_entries(writers[owner].put(record))
    assert len(view.endpoints) == len(records)
    return view


def texts(view: RegistryView) -> list[str]:
    return [one.text for one in at_once(shared_names(view))]


def compose(project: str, number: int = 1, service: str = "db", **fields: Any) -> dict[str, Any]:
    return {
        "name": f"{project}-{service}-{number}",
        "group": Group(project, service),
        **fields,
    }


def test_two_projects_with_one_service_name_are_named_with_their_hosts() -> None:
    view = view_of((H1, compose("shop")), (H2, compose("blog")), (H3, compose("blog", 2)))
    assert texts(view) == [
        (
            "the name db in network app is shared by group blog on h2, h3 and group shop on h1: other containers get "
            "the addresses of all; ask for db.blog or db.shop"
        )
    ]


def test_a_network_that_refuses_shared_names_says_so() -> None:
    view = view_of((H1, compose("shop")), (H2, compose("blog")))
    writer = Writer(H1)
    writer.sequence = 99
    view = view.with_entries(writer.put(network(N1, "app", refuses_shared_names=True)))
    (text,) = texts(view)
    assert "other containers get no answer; ask for db.blog or db.shop" in text


def test_a_project_that_runs_from_different_folders_on_two_hosts_may_be_two() -> None:
    def at(folder: bytes, number: int, service: str = "db") -> dict[str, Any]:
        return compose("app", number, group=Group("app", service, folder), service=f"app-{service}-{number}")

    anna, otto = b"anna....", b"otto...."
    view = view_of((H1, at(anna, 1)), (H2, at(otto, 2)), (H3, at(anna, 3)), (H3, at(otto, 4, "web")))
    (found,) = at_once(split_projects(view))
    assert found.text == (
        "service db of project app in network app was started from different folders on h1 and h2 and h3: if these "
        "are two projects of one name, each finds the other's containers under its own names"
    )
    same = view_of((H1, at(anna, 1)), (H2, at(anna, 2)), (H3, compose("app", 3)))
    assert at_once(split_projects(same)) == ()
    one_host = view_of((H1, at(anna, 1)), (H1, at(otto, 2)))
    assert at_once(split_projects(one_host)) == (), "compose itself says so"


def test_a_container_of_that_name_does_not_get_it() -> None:
    view = view_of((H1, compose("shop")), (H2, compose("blog")), (H3, {"name": "db"}))
    assert texts(view) == [
        ("the name db in network app leads to group blog on h2 and group shop on h1, and not to db on h3")
    ]


def test_an_alias_given_by_hand_comes_before_a_name() -> None:
    view = view_of((H1, {"name": "one", "aliases": ("db",)}), (H2, {"name": "db"}))
    (text,) = texts(view)
    assert "leads to one on h1, and not to db on h2" in text


def test_an_alias_that_a_chosen_service_hides_is_reported() -> None:
    view = view_of((H1, {"name": "one", "aliases": ("db",)}), (H2, {"name": "pg", "service": "db"}))
    (text,) = texts(view)
    assert "leads to pg on h2, and not to one on h1" in text


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([(H1, compose("shop")), (H2, compose("shop", 2))], id="replicas of one project"),
        pytest.param([(H1, compose("shop")), (H2, compose("blog", network_id=N2))], id="other networks"),
        pytest.param([(H1, compose("shop")), (H2, compose("blog", service="cache"))], id="other names"),
        pytest.param([(H1, {"name": "db"}), (H2, {"name": "db"})], id="replicas by hand"),
        pytest.param(
            [(H1, {"name": "a", "aliases": ("x",)}), (H2, {"name": "b", "aliases": ("x",)})],
            id="an alias of several, by hand",
        ),
        pytest.param(
            [
                (H1, {"name": "a-1", "service": "db", "group": Group("a", "x")}),
                (H2, {"name": "b-1", "service": "db", "group": Group("b", "x-2")}),
                (H2, {"name": "db"}),
            ],
            id="a service that was chosen",
        ),
        pytest.param(
            [(H1, {"name": "db", "group": Group("shop")}), (H2, compose("shop"))],
            id="a name within one project",
        ),
        pytest.param(
            [(H1, {"name": "x", "service": "db"}), (H1, compose("a")), (H2, compose("b"))],
            id="a service that was chosen, before projects that find their own",
        ),
    ],
)
def test_what_is_as_expected_is_no_finding(
    records: list[tuple[str, dict[str, str]]] | list[tuple[str, dict[str, Any]]],
) -> None:
    assert texts(view_of(*((owner, dict(fields)) for owner, fields in records))) == []


def test_container_names_that_two_projects_chose_alike_are_reported() -> None:
    records = [(one, {"name": "db", "group": Group(project)}) for one, project in ((H1, "a"), (H2, "b"))]
    (text,) = texts(view_of(*records))
    assert "group a on h1 and group b on h2" in text
