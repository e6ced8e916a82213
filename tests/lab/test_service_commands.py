"""`service create`, `set`, `inspect` and `rm` on whole hosts: each answer, and the next command, see the change."""

from __future__ import annotations

from typing import Any

import pytest
from lab.harness import Cluster
from lab.test_service_sandboxes import FOLLOWED_S, PORT, WHOAMI, await_replicas

pytestmark = [pytest.mark.lab, pytest.mark.services]


def shares(answer: Any) -> dict[str, int | None]:
    """The places of each backend of the address that names lead to."""
    return {one["name"]: one["places"] for one in answer["service_addresses"][0]["backends"]}


def refused(app: Cluster, host: str, status: int, *words: str) -> str:
    done = app.try_netagent(host, "service", *words)
    assert (done.status, done.stdout, done.stderr.count("\n")) == (status, "", 1), done
    return done.stderr


def test_an_answer_shows_where_connections_go_from_now_on(app: Cluster) -> None:
    for host in ("h1", "h2"):
        app.attach(host, f"web-{host}", "--service", "web", command=("python3", WHOAMI, PORT))
    await_replicas(app, "c1", 2)
    made = app.netagent("h1", "service", "create", "web", "--network", "app", "--port", f"80:{PORT}")
    addresses = made["service_addresses"][0]["addresses"]
    assert (made["created"], made["warnings"]) == (True, [])
    # With the first service of a host its programs are loaded and its sandboxes get their routes.
    app.wait(lambda: sorted(app.answers("c1", "web")) == sorted(addresses), FOLLOWED_S, "names do not follow")
    app.wait(
        lambda: app.netagent("h2", "service", "inspect", "web")["service_addresses"] != [],
        FOLLOWED_S,
        "h2 does not know it",
    )
    again = app.netagent("h2", "service", "create", "web", "--network", "app", "--port", f"80:{PORT}")
    assert again["created"] is False

    def is_even() -> bool:
        seen = [app.netagent(host, "service", "inspect", "web") for host in ("h1", "h2")]
        return all(shares(one) == {"web-h1": 32, "web-h2": 32} for one in seen)

    app.wait(is_even, FOLLOWED_S, "both hosts share connections out evenly")

    def changed(*words: str) -> dict[str, int | None]:
        return shares(app.netagent("h1", "service", "set", "web", *words))

    for _ in range(3):
        assert changed("--weight", "h2=300") == {"web-h1": 16, "web-h2": 48}
        assert changed("--weight", "h2=default", "--balance", "nearest") == {"web-h1": 64}
        assert changed("--balance", "spread", "--weight", "h1=0") == {"web-h1": 0, "web-h2": 64}
        assert changed("--weight", "none") == {"web-h1": 32, "web-h2": 32}
    app.netagent("h1", "service", "set", "web", "--balance", "nearest")
    (other,) = app.netagent("h1", "service", "inspect", "web")["no_backends"]
    assert (other["name"], other["reason"]) == ("web-h2", "another replica is nearer to this host")
    (row,) = app.netagent("h1", "services", "--service", "web")
    assert row["service_addresses"][0]["balance"] == "nearest"
    removed = app.netagent("h1", "service", "rm", "web", "--network", "app")
    assert (removed["addresses"], removed["removed"]) == (addresses, 0)
    app.wait(lambda: len(app.ask("c1", "web").data) == 2, FOLLOWED_S, "names do not lead to replicas again")
    assert app.netagent("h1", "service", "inspect", "web")["service_addresses"] == []
    refused(app, "h1", 1, "rm", "web")


def test_wrong_words_are_one_sentence_and_change_nothing(app: Cluster) -> None:
    app.netagent("h1", "service", "create", "web", "--network", "app", "--port", "80")
    before = app.netagent("h1", "service", "inspect", "web")
    app.wait(
        lambda: app.netagent("h2", "services", "--service", "web") != [],
        FOLLOWED_S,
        "h2 does not know it",
    )
    assert "its ports are 80; `netagent service set" in refused(
        app, "h1", 4, "create", "web", "--network", "app", "--port", "81"
    )
    assert "there is no network 'nope'" in refused(app, "h1", 1, "create", "web", "--network", "nope")
    for weight in ("h9=1", "h9=default"):
        assert "there is no host 'h9'" in refused(app, "h1", 1, "set", "web", "--weight", weight)
    for address in before["service_addresses"][0]["addresses"]:
        assert app.netagent("h1", "service", "inspect", address)["name"] == "web"
    assert "not a port" in refused(app, "h1", 2, "set", "web", "--port", "http")
    assert "not clear what to change" in refused(app, "h1", 2, "set", "web")
    assert "no service with an address 'db'" in refused(app, "h1", 1, "set", "db", "--sticky", "on")
    for words in (("set", "web", "--sticky", "on"), ("rm", "web")):
        assert "on host h1; type this command there" in refused(app, "h2", 4, *words)
    assert app.netagent("h1", "service", "inspect", "web") == before
    warned = [one["code"] for one in app.netagent("h1", "status")["warnings"]]
    assert "no-backend" in warned
    app.netagent("h1", "service", "rm", "web")
