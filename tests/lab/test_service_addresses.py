"""Addresses of services over cuts, crashes and the end of hosts: what a program remembers stays the service's."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from fakes.registry import event
from lab.harness import Cluster
from lab.test_service_sandboxes import FOLLOWED_S, PORT, WHOAMI, fetched

from netagent.model.ids import HostId
from netagent.model.records import ServiceKey
from netagent.registry.view import RegistryView
from netagent.services.address_keeper import TURN_S
from netgossip.types import CLUSTER_SCOPE, Entry, Version

pytestmark = [pytest.mark.lab, pytest.mark.services]

ASKS = ("--service", "web", "--label", "netagent.address=true")
DUMP = """
import json, sqlite3
base = sqlite3.connect("file:/var/lib/netagent/state.db?mode=ro", uri=True)
rows = "SELECT owner, hex(key), hex(value), epoch, sequence FROM {}_entry WHERE scope = zeroblob(16)"
print(json.dumps([row for one in ("own", "replica") for row in base.execute(rows.format(one))]))
"""
"""The records that all hosts have."""
SILENT_S = 30.0
WRITTEN_S = 15.0
"""Records cross a cut that has healed within ten seconds, and are in a journal a second after that."""


def known(cluster: Cluster, host: str) -> dict[tuple[str, ...], str]:
    """The addresses of `web` that a host's journal says are in force, each with its owner's name."""
    view = RegistryView(HostId(cluster.netagent(host, "status")["host"]["id"]))
    for owner, key, value, epoch, sequence in json.loads(
        cluster.lab.host(host).must(["python3", "-c", DUMP])
    ):
        content = None if not value else bytes.fromhex(value)
        one = Entry(CLUSTER_SCOPE, owner, bytes.fromhex(key), content, Version(epoch, sequence))
        view = view.with_entries(event(owner, one))
    view.check_invariants()
    (network_id,) = view.networks
    views = view.service_addresses(network_id).get(ServiceKey("web"), ())
    return {one.record.addresses: view.hosts[one.owner].unique_name for one in views}


def wait_known(cluster: Cluster, host: str, owners: list[str]) -> dict[tuple[str, ...], str]:
    """Wait until a host's journal has addresses of these owners, and return them."""

    def is_known() -> bool:
        return sorted(known(cluster, host).values()) == owners

    cluster.wait(is_known, WRITTEN_S, f"{host} does not know addresses of {owners}")
    return known(cluster, host)


def test_what_both_sides_of_a_cut_gave_stays_when_an_agent_dies_and_when_a_host_is_forgotten(
    app: Cluster,
) -> None:
    for other in ("h1", "h2"):
        app.lab.cut(other, "h3")
    for host, others in (("h1", ["h3"]), ("h3", ["h1", "h2"])):
        app.wait(
            lambda: all(app.agents(host).get(one) == "dead" for one in others),
            SILENT_S,
            f"{host} still hears the other side",
        )
    for host in ("h1", "h3"):
        app.attach(host, f"web-{host}", *ASKS, command=("python3", WHOAMI, PORT))
        app.await_listening(f"web-{host}", int(PORT))
    given = wait_known(app, "h2", ["h1"]) | wait_known(app, "h3", ["h3"])
    assert len(given) == 2
    app.lab.heal()
    for host in app.hosts:
        assert wait_known(app, host, ["h1", "h3"]) == given
    # Programs on both sides go on with the address that they were given: each leads to the replicas of both.
    for address in itertools.chain(*given):
        for container in ("c1", "c2", "c3"):
            app.wait(lambda: fetched(app, container, address)[0] == 0, FOLLOWED_S, f"{address} is silent")

    with app.agent_of("h1") as changing:
        changing.kill_agent()
        changing.start_agent()
    app.wait(lambda: app.agents("h2").get("h1") == "alive", SILENT_S, "h1 does not come back")
    # One more replica, and nothing asks for another address.
    app.attach("h2", "web-h2", *ASKS)
    turns_end = time.monotonic() + TURN_S + 2.0
    while time.monotonic() < turns_end:
        assert known(app, "h1") == known(app, "h2") == given

    app.lab.power_off("h3")
    app.wait(lambda: app.agents("h1").get("h3") == "dead", SILENT_S, "h1 still hears of h3")
    app.wait(lambda: app.try_netagent("h1", "forget", "h3").status == 0, SILENT_S, "h3 cannot be forgotten")
    for host in ("h1", "h2"):
        assert set(wait_known(app, host, ["h1", "h1"])) == set(given)
    warnings = app.netagent("h1", "status")["warnings"]
    (twice,) = [one for one in warnings if one["code"].startswith("service-")]
    assert twice["code"] == "service-address-twice"
    # As the warning says. Then names lead to the one that they led to before, and the service keeps it.
    first = app.netagent("h2", "services")[-1]["service_addresses"][0]["addresses"]
    assert app.netagent("h1", "service", "rm", "web", "--network", "app")["addresses"] != first
    assert list(wait_known(app, "h2", ["h1"])) == [tuple(first)]
    said = app.try_netagent("h1", "service", "rm", "web", "--network", "app")
    assert (said.status, "asks for an address of service web by its label" in said.stderr) == (4, True)
