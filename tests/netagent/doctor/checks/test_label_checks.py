"""Labels that feeds leave out, as `status` and `inspect --why` name them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fakes.registry import H1, H2, N1, Writer, endpoint, host, network

from netagent.commands.feed import MAX_SHOWN, label_notices
from netagent.doctor.checks.label_checks import label_lines
from netagent.doctor.checks.object_status import State
from netagent.model.records import Port
from netagent.registry.view import RegistryView
from netgossip.slices import at_once

RULE = "traefik.http.routers.r.rule"


def a_cluster(*labels: tuple[str, str], on: str = H1) -> Any:
    """Return as much of a cluster as warnings need: one endpoint with these labels, in a network with a rule."""
    here, there = Writer(H1), Writer(H2)
    view = RegistryView(H1)
    for record in (host("h1"), network(N1, feed_rules=("*.shop.example",))):
        view = view.with_entries(here.put(record))
    view = view.with_entries(there.put(host("h2")))
    claimer = endpoint(labels=labels, ports=(Port("http", 80),))
    view = view.with_entries((here if on == H1 else there).put(claimer))
    rows = {claimer.endpoint_id: None} if on == H1 else {}
    return SimpleNamespace(
        live=SimpleNamespace(view=view, rows=rows), keys=SimpleNamespace(domain="mesh.internal")
    )


def test_a_domain_that_the_rules_of_the_network_refuse_is_a_warning_on_its_host() -> None:
    bank = (RULE, "Host(`bank.example`)")
    (notice,) = at_once(label_notices(a_cluster(bank)))
    assert "the http router r is refused" in notice["message"]
    assert "bank.example" in notice["message"]
    assert at_once(label_notices(a_cluster(bank, on=H2))) == []
    assert at_once(label_notices(a_cluster((RULE, "Host(`a.shop.example`)")))) == []
    assert at_once(label_notices(a_cluster(("team", "x")))) == []


def test_warnings_are_few() -> None:
    labels = [(f"traefik.http.routers.r.nosuch{number:02d}", "x") for number in range(MAX_SHOWN + 3)]
    notices = at_once(label_notices(a_cluster(*labels)))
    assert len(notices) == MAX_SHOWN + 1
    assert "further labels" in notices[-1]["message"]


def test_why_names_what_is_refused() -> None:
    cluster = a_cluster(("caddy", "bank.example"))
    (one,) = cluster.live.view.endpoints.values()
    (line,) = at_once(label_lines(cluster.live.view, one, "mesh.internal"))
    assert (line.kind, line.state) == ("feeds", State.MISSING)
    assert "do not allow the domain bank.example" in line.reason
