"""What happened on a host, and who or what caused it, as a person on call reads it."""

from __future__ import annotations

from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.services]

SEEN_S = 30.0


def events(app: Cluster, host: str, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = app.netagent(host, "events", "--since", "1h", *options)
    return found


def await_event(app: Cluster, host: str, kind: str, subject: str, after: int = 0) -> dict[str, Any]:
    """The one event of this kind about this thing, once it is there."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [
            one
            for one in events(app, host, "--kind", kind)
            if one["subject"] == subject and one["number"] > after
        ]
        return bool(found)

    app.wait(is_there, SEEN_S, lambda: f"no {kind} of {subject} on {host}: {events(app, host)}")
    assert len(found) == 1, found
    return found[0]


def last(app: Cluster, host: str) -> int:
    return max((one["number"] for one in events(app, host)), default=0)


def test_who_attached_and_who_detached(lasting: Cluster) -> None:
    lasting.attach("h1", "e1")
    attached = await_event(lasting, "h1", "attach", "e1")
    assert attached["text"].startswith("attached e1 (netns:e1) to app: 10.")
    assert attached["author"] == {"kind": "user", "name": "root", "uid": 0, "program": "netagent"}
    lasting.netagent("h1", "drain", "e1")
    drained = await_event(lasting, "h1", "drain", "e1")
    assert drained["text"] == "withdrew the names of e1 (netns:e1): drained by root"
    assert drained["author"]["name"] == "root"
    lasting.remove("e1")
    detached = await_event(lasting, "h1", "detach", "e1")
    assert attached["number"] < drained["number"] < detached["number"]
    assert detached["author"]["name"] == "root"


def test_a_container_that_went_without_a_word_is_the_kernels_news(lasting: Cluster) -> None:
    lasting.attach("h2", "e2")
    lasting.lab.remove_container("e2", kill=True)
    gone = await_event(lasting, "h2", "detach", "e2")
    assert gone["text"] == "detached e2 (netns:e2) from app: its namespace is gone"
    assert gone["author"]["kind"] == "kernel"


def test_a_refusal_names_the_rule(lasting: Cluster) -> None:
    done = lasting.try_netagent("h1", "network", "rm", "app")
    assert done.status == 4
    refused = await_event(lasting, "h1", "refusal", "app")
    assert refused["text"].startswith("refused `network rm app`: network app is in use by ")


def test_events_outlive_the_agent(lasting: Cluster) -> None:
    before = events(lasting, "h3")
    number = last(lasting, "h3")
    with lasting.agent_of("h3") as h3:
        h3.kill_agent()
        h3.start_agent()
    after = events(lasting, "h3")
    assert after[: len(before)] == before
    started = await_event(lasting, "h3", "agent", "", after=number)
    assert started["text"].endswith("is ready")


def test_a_dead_agent_and_its_return(lasting: Cluster) -> None:
    number = last(lasting, "h1")
    with lasting.agent_of("h2") as h2:
        h2.kill_agent()
        dead = await_event(lasting, "h1", "member", "h2", after=number)
        assert (dead["level"], dead["author"]["kind"]) == ("warning", "gossip")
        assert dead["text"] == "the agent of h2 (192.0.2.2) does not answer; its kernel does"
        h2.start_agent()
    back = await_event(lasting, "h1", "member", "h2", after=dead["number"])
    assert back["text"] == "the agent of h2 answers again"


def test_what_another_host_made_drained_and_removed(lasting: Cluster) -> None:
    number = last(lasting, "h3")
    lasting.netagent("h1", "network", "create", "passing")
    made = await_event(lasting, "h3", "network", "passing", after=number)
    assert made["author"] == {"kind": "gossip", "name": "h1", "uid": None, "program": ""}
    lasting.netagent("h2", "network", "rm", "passing")
    removed = await_event(lasting, "h3", "network", "passing", after=made["number"])
    assert (removed["text"], removed["author"]["name"]) == ("removed network passing", "h2")
    lasting.netagent("h2", "drain", "--host")
    drained = await_event(lasting, "h3", "drain", "h2", after=number)
    assert drained["text"].startswith("h2 is drained by root: ")
    lasting.netagent("h2", "undrain", "--host")
    await_event(lasting, "h3", "drain", "h2", after=drained["number"])


def test_a_repair_is_the_kernels_news(lasting: Cluster) -> None:
    number = last(lasting, "h1")
    host = lasting.lab.host("h1")
    entries = host.run(["ip", "-4", "neigh", "show", "nud", "permanent"]).stdout.splitlines()
    address, device = next((line.split()[0], line.split()[2]) for line in entries if " dev na-" in line)
    assert host.run(["ip", "neigh", "del", address, "dev", device]).status == 0
    repaired = await_event(lasting, "h1", "repair", "", after=number)
    assert address in repaired["text"]
    assert repaired["author"]["kind"] == "kernel"


def test_a_killed_resolver_process_and_the_one_after_it(lasting: Cluster) -> None:
    number = last(lasting, "h3")
    host = lasting.lab.host("h3")
    found = [one for one in events(lasting, "h3", "--kind", "resolver") if "answers DNS" in one["text"]]
    process = found[-1]["text"].split()[1]
    assert host.run(["kill", "-KILL", process]).status == 0

    def seen() -> list[str]:
        return [one["text"] for one in events(lasting, "h3", "--kind", "resolver") if one["number"] > number]

    lasting.wait(
        lambda: any("answers DNS" in text for text in seen()), SEEN_S, lambda: f"no other process: {seen()}"
    )
    assert seen()[0].startswith("resolver process: ")
    lasting.wait(lambda: lasting.finds("c3", "c1"), SEEN_S, "c3 finds no names")


def test_the_events_of_all_hosts_and_which_did_not_answer(lasting: Cluster) -> None:
    numbers = {host: last(lasting, host) for host in lasting.hosts}
    for host in lasting.hosts:
        lasting.attach(host, f"all-{host}")
    lasting.remove(*(f"all-{host}" for host in lasting.hosts))

    def seen() -> list[tuple[str, str, str]]:
        found = events(lasting, "h1", "--all", "--kind", "attach,detach")
        return [
            (one["host"], one["kind"], one["subject"])
            for one in found
            if one["number"] > numbers[one["host"]]
        ]

    wanted = {(h, kind, f"all-{h}") for h in lasting.hosts for kind in ("attach", "detach")}
    lasting.wait(lambda: set(seen()) == wanted, SEEN_S, lambda: f"{seen()}")
    with lasting.agent_of("h3") as h3:
        h3.kill_agent()
        done = lasting.try_netagent("h1", "events", "--all", "--since", "1h", timeout_s=60.0)
        assert done.status == 0
        assert "the events of h3 are missing: no answer came from there" in done.stderr
        h3.start_agent()
