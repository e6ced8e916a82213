"""An attached container is reachable from every host at once, and attaching asks no other host."""

from __future__ import annotations

import time

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

REACHABLE_S = 1.0
"""What is promised between the return of `attach` and the name and the address working on every host."""


def test_attaching_again_changes_nothing(lasting: Cluster) -> None:
    app = lasting
    before = app.traces()
    again = app.netagent("h1", "attach", "netns:c1", "--network", "app", "--name", "c1")
    assert again["created"] is False
    assert app.traces() == before


@pytest.mark.parametrize("host", ["h1", "h2", "h3"])
def test_scenario_01_a_new_container_is_reached_from_every_host_on_the_first_packet(
    lasting: Cluster, host: str
) -> None:
    app, fresh = lasting, f"fresh-{host}"
    endpoint = app.attach(host, fresh)
    attached_at = time.monotonic()
    addresses = endpoint["addresses"]
    assert len(addresses) == 2, "an IPv4 and an IPv6 address"
    for container in ("c1", "c2", "c3"):
        app.wait(
            lambda: app.answers(container, fresh) == sorted(addresses),
            attached_at + REACHABLE_S - time.monotonic(),
            f"{container} does not find the name",
        )
    first_packets = {
        (container, address): app.pings(container, address)
        for container in ("c1", "c2", "c3")
        for address in addresses
    }
    assert all(first_packets.values()), first_packets
    for container in ("c1", "c2", "c3"):
        assert app.pings(fresh, container), f"{container} by name from the new one"
    app.remove(fresh)


def test_a_detached_container_is_gone_everywhere(lasting: Cluster) -> None:
    app = lasting
    devices = app.devices("h2")
    app.attach("h2", "fresh")
    app.wait(lambda: app.ask("c1", "fresh").status == "NOERROR", 1.0, "not known")
    app.lab.remove_container("fresh")
    for container in ("c1", "c2", "c3"):
        app.wait(
            lambda: app.ask(container, "fresh").status == "NXDOMAIN",
            1.0,
            "still answered",
        )
    assert app.devices("h2") == devices
    assert app.endpoint_names("h1") == ["c1", "c2", "c3"]


def test_attach_waits_for_no_other_host(lasting: Cluster) -> None:
    app = lasting
    app.lab.cut("h2", "h1")
    app.lab.cut("h2", "h3")
    took_s: list[float] = []
    made: list[str] = []
    # Who waits for others does so each time, a busy machine does not.
    for name in ("alone-1", "alone-2", "alone-3"):
        begun = time.monotonic()
        endpoint = app.attach("h2", name)
        took = time.monotonic() - begun
        made.append(name)
        if took_s and "dead" in app.agents("h2").values():
            break  # no host waits for dead ones
        took_s.append(took)
    print(f"attached within {', '.join(f'{one:.2f}' for one in took_s)} s")
    assert min(took_s) < 1.0
    assert app.pings("c2", endpoint["addresses"][0])
    app.lab.heal()
    app.wait(lambda: app.answers("c1", name) == sorted(endpoint["addresses"]), 10.0, "h1 never learns of it")
    app.await_pings("c1", endpoint["addresses"][0])
    for one in app.hosts:
        app.wait(lambda: set(app.agents(one).values()) == {"alive"}, 10.0, f"{one} misses a host")
    app.remove(*made)
