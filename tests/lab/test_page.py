"""The web page, in a browser, through a tunnel, while whole hosts change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.browser import PHONE, PICTURES, WIDE, Browser, browser
from harness.tunnel import tunnel
from lab.faults import rule
from lab.harness import Cluster
from lab.page import page_of

pytestmark = [pytest.mark.lab, pytest.mark.services]

PARTS = (
    "",
    "map",
    "map?by=services",
    "services",
    "endpoints",
    "hosts",
    "networks",
    "addresses",
    "paths",
    "flows",
    "events",
    "events?hosts=all",
    "dns?name=web.app",
)
PICTURE_NAMES = (
    "dashboard-overview",
    "dashboard-services",
    "dashboard-map",
    "dashboard-why",
    "dashboard-paths",
)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def shop(lasting: Cluster) -> Cluster:
    """A service on two hosts, and one of a network with links."""
    lasting.netagent("h1", "network", "create", "back", "--policy", "links")
    for host, name, *more in (
        ("h1", "web1", "--service", "web"),
        ("h2", "web2", "--service", "web"),
        ("h3", "db1", "--service", "db", "--network", "back"),
        ("h1", "api1", "--service", "api", "--network", "back", "--link", "db"),
    ):
        lasting.attach(host, name, *more)
    return lasting


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as one:
        yield one


def test_every_part_is_for_everybody_and_asks_nobody_else(shop: Cluster, window: Browser) -> None:
    """In both colours and on a phone: axe-core finds nothing, the browser nothing against the policy, and no request
    goes elsewhere."""
    (web1,) = (one for one in shop.netagent("h1", "endpoints") if one["name"] == "web1")
    parts = {
        **dict.fromkeys(PARTS, "live"),
        f"endpoints/{web1['id']}": "has what the records say",
        "services/web.app": "2 of 2 answer",
    }
    with page_of(shop, "h1", window) as open_part:
        for number, (path, text) in enumerate(parts.items()):
            for size in (WIDE, PHONE):
                window.colours("light" if (number % 2 == 0) == (size == WIDE) else "dark")
                window.resize(*size)
                open_part(path)
                window.wait_text(text)
                assert window.violations() == [], (path, size)
                assert not window.run("return document.documentElement.scrollWidth > innerWidth + 1"), path
                assert window.foreign_requests() == []
        assert window.complaints() == []


def test_filters_are_in_the_address_and_the_keyboard_is_enough(shop: Cluster, window: Browser) -> None:
    with page_of(shop, "h1", window) as open_part:
        open_part("services?network=app")
        window.wait(
            lambda: [row.split()[0] for row in window.rows()] == ["c1", "c2", "c3", "web"], "not filtered"
        )
        window.type("/")
        window.type("web")
        window.wait(
            lambda: [row.split()[0] for row in window.rows()] == ["web"], "the search finds something else"
        )
        assert window.address.endswith("/page/services?network=app&q=web")
        window.press("ARROW_DOWN")
        window.press("ENTER")
        window.wait_text("2 of 2 answer", "web1", "web2")
        window.run("history.back()")
        window.wait(
            lambda: [row.split()[0] for row in window.rows()] == ["web"], "the way back loses the filter"
        )
        window.click("clear filters")
        window.wait(lambda: len(window.rows()) == 6, "not all services")


def test_it_follows_a_replica_and_its_own_agent(shop: Cluster, window: Browser) -> None:
    """Without reloading: a drain is seen, and an agent that goes and comes back."""
    with page_of(shop, "h1", window) as open_part:
        open_part("services?q=web")
        window.wait(lambda: window.rows() == ["web app ● up 2 of 2 h1 h2"], "not all up")
        shop.netagent("h2", "drain", "web2")
        window.wait(
            lambda: window.rows() == ["web app ◐ partial 1 of 2 1 drained h1 h2"], "the drain is not seen"
        )
        shop.netagent("h2", "undrain", "web2")
        window.wait(lambda: window.rows() == ["web app ● up 2 of 2 h1 h2"], "its end is not seen")

        open_part("")
        window.wait_text("all well")
        with shop.agent_of("h1") as agent:
            agent.kill_agent()
        window.wait_text("The agent has not answered since")
        with shop.agent_of("h1") as agent:
            agent.start_agent()
        window.wait(lambda: "has not answered" not in window.text, "it does not find the agent again")
        window.wait_text("live")


def test_a_service_without_containers_says_what_it_has(shop: Cluster, window: Browser) -> None:
    """Only an address of its own, an address outside, or a name outside that is not resolved."""
    shop.netagent("h1", "service", "create", "cache", "--network", "back", "--port", "80")
    shop.netagent("h2", "service", "add", "pg", "--network", "back", "--address", "198.51.100.7:5432")
    shop.netagent("h1", "service", "add", "out", "--network", "back", "--name", "out.example.invalid")
    try:
        with page_of(shop, "h1", window) as open_part:
            open_part("services?network=back&sort=state")

            def rows() -> dict[str, str]:
                return {row.split()[0]: row for row in window.rows()}

            window.wait(lambda: {"cache", "pg", "out"} <= {*rows()}, "not all have a row")
            assert rows()["pg"] == "pg back ● up 1 of 1 h2 (external) 5432/tcp 198.51.100.7"
            window.wait(
                lambda: "back ✕ down none connections to its" in rows()["cache"], "not without replica"
            )
            window.wait(lambda: "back ✕ down no address out.example" in rows()["out"], "not without address")
            for name, text in (("cache", "no replica"), ("pg", "1 of 1 answer"), ("out", "no address")):
                open_part(f"services/{name}.back")
                window.wait_text(text, "has what the records say")
                assert "complete" not in window.text
                assert window.violations() == [], name
    finally:
        for host, name in (("h1", "cache"), ("h2", "pg"), ("h1", "out")):
            shop.netagent(host, "service", "rm", name, "--network", "back")


def test_the_addresses_of_a_network_are_shown_host_by_host(shop: Cluster, window: Browser) -> None:
    """With filters in the address, by the keyboard; and a host that dies is named."""
    with page_of(shop, "h1", window) as open_part:
        open_part("addresses?network=back")
        window.wait(
            lambda: (
                [row.split("%")[0].split()[:2] for row in window.rows()]
                == [["back", "all"], *(["back", host] for host in ("h1", "h2", "h3"))]
            ),
            "not all of one network",
        )
        use = shop.netagent("h1", "network", "inspect", "back")["use"]
        assert f"{use['used']} of {use['total']:,} {use['free']:,} ● ok" in window.rows()[0]
        window.type("/")
        window.type("h3")
        window.wait(lambda: len(window.rows()) == 1, "the search finds more than one")
        assert window.address.endswith("/page/addresses?network=back&q=h3")
        window.press("ARROW_DOWN")
        window.press("ENTER")
        window.click("Which host owns which of its addresses?")
        window.wait(lambda: len(window.rows()) == 4, "not the addresses of this network")
        open_part("addresses?state=away")
        window.wait_text("No owner matches these filters.")
        with shop.agent_of("h3") as agent:
            agent.kill_agent()
        window.wait(
            lambda: any("agent dead: cannot be used" in row for row in window.rows()), "nobody is away"
        )
        open_part("map")
        window.click("As a table")
        window.wait_text("agent dead, host answers")
        with shop.agent_of("h3") as agent:
            agent.start_agent()
        window.wait_text("path ok")
        window.wait(lambda: "agent dead" not in window.text, "it stays dead")


def test_who_talked_to_whom_is_a_table_and_a_map(shop: Cluster, window: Browser) -> None:
    with page_of(shop, "h1", window) as open_part:
        assert shop.inside("c1", "ping", "-c", "2", "-W", "2", "c2").status == 0
        open_part("flows?q=c1")
        window.wait(lambda: any(row.startswith("c1 on h1 c2 on h2 ") for row in window.rows()), "no flow")
        shop.attach("h1", "brief")
        open_part("flows?q=brief")

        def is_counted() -> bool:
            # The first packets of a container may pass before the kernel counts at its port.
            assert shop.inside("brief", "ping", "-c", "1", "-W", "2", "c2").status == 0
            return any(row.startswith("brief on h1 c2 on h2 ") for row in window.rows())

        window.wait(is_counted, "no flow")
        assert any(address in window.text for address in shop.endpoint("c2")["addresses"])
        assert window.violations() == []
        shop.remove("brief")
        window.wait(lambda: any(row.startswith("brief (gone) on h1 ") for row in window.rows()), "not gone")
        # The container listens on no port: it refuses what comes in, and that is an opening all the same.
        shop.netagent("h2", "publish", "c2", "7171:7171")
        connect = ["bash", "-c", "echo > /dev/tcp/192.0.2.2/7171"]
        open_part("flows?q=c2")

        def has_come_in() -> bool:
            for host in ("h1", "h2"):
                shop.lab.host(host).run(connect)
            begin = [row.partition(" c2 on h2 ")[0] for row in window.rows()]
            return {"outside on h2", "the host on h2"} <= {*begin}

        window.wait(has_come_in, "what comes in by the published port is not shown")
        shop.netagent("h2", "unpublish", "c2", "7171:7171")
        open_part("map?by=services")
        window.click("As a table")
        window.wait(
            lambda: any(row.startswith("c1.app") and "c2.app (" in row for row in window.rows()), "no edge"
        )
        assert any("db.back (allowed)" in row for row in window.rows()), window.rows()


def test_the_time_line_has_events_of_other_hosts_if_they_are_asked_for(
    shop: Cluster, window: Browser
) -> None:
    with page_of(shop, "h1", window) as open_part:
        open_part("events?kind=attach")
        window.wait(lambda: any("attached web1 " in row for row in window.rows(".log li")), "no own event")
        assert not any("attached web2 " in row for row in window.rows(".log li"))
        open_part("events?kind=attach&hosts=all")
        window.wait(
            lambda: any("h2 attached web2 " in row for row in window.rows(".log li")), "no event of h2"
        )


def down_paths(window: Browser) -> set[tuple[str, str]]:
    """The pairs of hosts whose path the matrix shows as down."""
    cells = window.run(
        "const names = [...document.querySelectorAll('.matrix thead th')].map((one) => one.textContent.slice(3));"
        "return [...document.querySelectorAll('.matrix tbody tr')].flatMap((row) => [...row.children].map("
        "(cell, at) => [row.querySelector('a').textContent, names[at], cell.textContent]))"
    )
    return {(source, target) for source, target, text in cells if "down" in text}


def test_a_cut_between_two_hosts_is_on_the_page_of_each(shop: Cluster, window: Browser) -> None:
    with page_of(shop, "h1", window) as open_part:
        shop.lab.cut("h1", "h3")
        open_part("hosts")
        window.wait(
            lambda: any(row.startswith("h3") and "down" in row for row in window.rows()), "no cut path"
        )
        # The matrix has it too; h3 cannot be asked from here, and h2 says that it reaches both.
        open_part("paths")
        window.wait(lambda: down_paths(window) == {("h1", "h3")}, "not in the matrix, or more than that")
        window.wait_text("no answer from h3")
        # From the first view it is one click to the host, and its `why` is there.
        open_part("")
        window.wait_text("Why: h3")
        window.click("h3", within=".leads")
        window.wait_text("✕ down", "Why: its records", "has what the records say")
        open_part("paths")
        window.wait_text("3 hosts")
        shop.lab.heal()
        window.wait(
            lambda: "no answer" not in window.text and not down_paths(window), "the matrix does not heal"
        )
        open_part("hosts")
        window.wait(lambda: all("ok" in row or "local" in row for row in window.rows()), "it does not heal")


def test_the_doctor_is_asked_from_the_page(shop: Cluster, window: Browser) -> None:
    with page_of(shop, "h1", window):
        window.wait_text("found nothing further at")

        def press_until(text: str) -> None:
            def pressed() -> bool:
                window.click("Run doctor")
                return text in window.text

            window.wait(pressed, f"the doctor does not say {text!r}")

        with rule(shop, "h1", "inet", "forward", "drop"):
            press_until("inet site")
        press_until("found nothing further at")


def test_the_pictures_are_of_a_page_at_work(shop: Cluster, window: Browser) -> None:
    (web2,) = (one for one in shop.netagent("h1", "endpoints") if one["name"] == "web2")
    with page_of(shop, "h1", window) as open_part:
        window.colours("light")
        window.wait_text("all well", "found nothing further at")
        window.take_picture(PICTURE_NAMES[0])
        open_part("services")
        window.wait_text("web")
        window.take_picture(PICTURE_NAMES[1])
        open_part("map")
        window.wait_text("6 services, 3 hosts")
        window.take_picture(PICTURE_NAMES[2])
        open_part(f"endpoints/{web2['id']}")
        window.wait_text("has what the records say")
        window.take_picture(PICTURE_NAMES[3])
        open_part("paths")
        window.wait(lambda: sum("1,370 B" in row for row in window.rows()) == 3, "no measured paths")
        window.take_picture(PICTURE_NAMES[4])


def test_from_elsewhere_it_wants_tls_that_it_can_prove_and_a_token(shop: Cluster) -> None:
    """A browser on another host that trusts the authority's file: nothing without the token; with it all parts,
    followed as they change; and nothing again once the token is revoked."""
    namespace, page = shop.lab._fabric.host_namespace("h2"), "https://h1:7958/page/"
    with (
        shop.reached_elsewhere("h1") as authority,
        tunnel(namespace, 7958, str(shop.lab.host("h1").address)) as port,
    ):
        places = f"MAP h1:7958 127.0.0.1:{port}"
        with browser(places=places) as stranger:
            stranger.open(page)
            stranger.wait_text("ERR_CERT_AUTHORITY_INVALID")
            stranger.open(page.replace("https", "http"))
            stranger.wait_text("only /healthz is answered in clear text")

        with browser(places=places, authority=authority) as window:
            window.open(page)
            window.wait_text("This page needs a token", "netagent token create NAME --read")
            asked = ("/page/data/endpoints", "/page/live/overview", "/v1/status", "/metrics")
            script = "return Promise.all(arguments[0].map((path) => fetch(path).then((one) => one.status)))"
            assert window.run(script, asked) == [401, 401, 403, 401]
            assert not any(name in window.text for name in ("web1", "h3", "mesh"))

            limited = shop.netagent("h1", "token", "create", "limited", "--read", "--network", "app")["token"]
            window.type(f"{limited}\n")
            window.wait_text("more than the networks of the token limited")
            token = shop.netagent("h1", "token", "create", "anna", "--read")["token"]
            window.type(f"{token}\n")
            window.wait_text("live", "mesh · from h1", "3")
            window.open(f"{page}services?q=web")
            window.wait(lambda: window.rows() == ["web app ● up 2 of 2 h1 h2"], "not all up")
            shop.netagent("h2", "drain", "web2")
            window.wait(lambda: any("1 of 2 1 drained" in row for row in window.rows()), "no drain is seen")
            shop.netagent("h2", "undrain", "web2")
            window.wait(lambda: window.rows() == ["web app ● up 2 of 2 h1 h2"], "its end is not seen")
            assert window.foreign_requests() == []
            shop.netagent("h1", "token", "revoke", "anna")
            window.wait_text("This page needs a token")
            assert window.violations() == []
            assert window.complaints() == []
            shop.netagent("h1", "token", "revoke", "limited")


def test_the_pictures_of_the_documents_are_there() -> None:
    for name in PICTURE_NAMES:
        assert (DOCS / "images" / f"{name}.png").stat().st_size > 5_000, (
            f"make them anew with {PICTURES}=docs/images"
        )
