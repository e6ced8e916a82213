"""Attach, detach and link: their order, their undoing, and what an endpoint may not take from another."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import trio
from fakes.agent_host import HANG, AgentHost, Hang, Namespaces
from fakes.registry import H2, N1, N2, N3, Writer, endpoint, host, network
from fakes.virtual import virtual

from netagent.checks.spec import parse_check_untrusted
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.endpoints.context import BRIDGE_S
from netagent.endpoints.find import NotHereError
from netagent.errors import FailedError, InputError, NetagentError, NotFoundError, RefusedError
from netagent.journal.journal import DiskFullError
from netagent.journal.rows import Published
from netagent.journal.statements import Statement
from netagent.model.check import CheckedHealth
from netagent.model.ids import EndpointId, NetworkId, mac_of
from netagent.model.publication import Publication
from netagent.model.records import (
    EndpointRecord,
    Group,
    Health,
    HealthNote,
    Link,
    Policy,
    Record,
    RemovalRecord,
)
from netagent.model.request import AttachRequest
from netgossip.types import MemberState

ATTACH_STEPS = [
    "journal",  # the attachment record
    "journal",  # the row, reserved
    "journal",  # the way to it, so that others can answer its first packet
    "programmed",
    "guarded",
    "bind",
    "listen",
    "journal",  # the endpoint record, and with it the row, published
    "followed",
]
UNDONE_STEPS = ATTACH_STEPS[:-1]
"""When the last fails, all is done already."""


Bind: TypeAlias = Callable[[LocalEndpoint], Awaitable[str]]


async def started(namespaces: Namespaces, *names: str) -> AgentHost:
    """A host with the networks app and back, and some sandboxes."""
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"), network(N2, "back", subnets=("10.2.0.0/24",)))
    one.steps.done.clear()
    namespaces.make(*names)
    return one


def request(target: str = "netns:web", network_name: str = "app", **fields: Any) -> AttachRequest:
    return AttachRequest(target=target, network=network_name, **fields)


async def other_host(one: AgentHost, *records: EndpointRecord) -> None:
    """Records that host h2 wrote."""
    writer = Writer(H2)
    one.meet(H2)
    every: tuple[Record, ...] = (host("h2"), *records)
    for record in every:
        one.hear(writer.put(record))


def refused(kind: type[Any], code: str, *words: str) -> Any:
    """Expect an error of the kind, with the code, a way out and the words."""

    class Expect:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, _type: type[Any], error: Any, _trace: Any) -> bool:
            assert type(error) is kind, error
            assert error.code == code
            for word in words:
                assert word in str(error), (word, str(error))
            return True

    return Expect()


# -- attach ---------------------------------------------------------------------------------------------------------


@virtual
async def test_attach_reserves_binds_listens_and_only_then_publishes(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    row, created = await one.endpoints.attach(request(service="shop", links=(Link("db", "database"),)))
    assert created
    assert one.steps.done == ATTACH_STEPS
    assert (row.name, row.service, row.is_published, row.ifname) == ("web", "shop", True, "eth0")
    assert one.journal.load_endpoints() == [row] == list(one.live.rows.values())
    assert one.own_endpoints() == {row.endpoint_id}
    assert one.live.view.endpoints[row.endpoint_id].record.addresses == row.addresses
    assert one.attacher.bound[0].addresses == ("10.1.0.2/24", "fd00:1::2/64")


@virtual
async def test_a_network_may_keep_labels_of_feeds_from_other_hosts(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await one.publisher.put(network(N1, "app", feed_labels=False))
    labels = (("caddy", "a.example"), ("team", "shop"), ("Traefik.http.middlewares.a.basicauth.users", "x:y"))
    row, _ = await one.endpoints.attach(request(labels=labels))
    assert row.labels == labels
    assert one.live.view.endpoints[row.endpoint_id].record.labels == (("team", "shop"),)


@virtual
async def test_others_know_the_way_to_a_container_before_it_can_speak_and_no_name_leads_there(
    namespaces: Namespaces,
) -> None:
    """A peer that used the address before has its MAC, and answers at once: by then its host must know the way."""
    one = await started(namespaces, "web")
    attacher: Any = one.attacher
    bind: Bind = attacher.bind
    reported: list[tuple[bool, bool]] = []

    async def looking(endpoint: LocalEndpoint) -> str:
        found = one.live.view.endpoints[endpoint.endpoint_id]
        reported.append((endpoint.endpoint_id in one.own_endpoints(), one.live.view.is_visible(found)))
        return await bind(endpoint)

    attacher.bind = looking
    row, _ = await one.endpoints.attach(request())
    assert reported == [(True, False)]
    assert one.live.view.is_visible(one.live.view.endpoints[row.endpoint_id])


@virtual
async def test_attaching_again_gives_the_same_endpoint_and_does_nothing(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    row, _ = await one.endpoints.attach(request(labels=(("tier", "front"),)))
    one.steps.done.clear()
    assert await one.endpoints.attach(request(labels=(("tier", "front"),))) == (row, False)
    assert one.steps.done == []


@pytest.mark.parametrize("position", range(len(UNDONE_STEPS)))
@pytest.mark.parametrize("fault", ["refused", "full", "kernel", "cancelled"])
@virtual
async def test_an_attach_that_fails_or_is_cancelled_anywhere_leaves_nothing(
    namespaces: Namespaces, position: int, fault: str
) -> None:
    one = await started(namespaces, "web")
    free = one.allocator.free_count(N1)
    errors: dict[str, Exception | Hang] = {
        "refused": RefusedError("no"),
        "full": DiskFullError("/var: the disk is full"),
        "kernel": OSError(errno.ENOMEM, "no memory"),
        "cancelled": HANG,
    }
    one.steps.fault = (position, errors[fault])
    async with trio.open_nursery() as nursery:

        async def attach() -> None:
            with pytest.raises((NetagentError, OSError, trio.Cancelled)) as caught:
                await one.endpoints.attach(request())
            if isinstance(caught.value, trio.Cancelled):
                raise caught.value

        nursery.start_soon(attach)
        await one.steps.reached.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert one.traces() == {}, one.steps.done
    assert one.allocator.free_count(N1) == free
    one.allocator.allocations[N1].pool.check_invariants()
    row, created = await one.endpoints.attach(request())
    assert created
    assert row.is_published


@virtual
async def test_a_step_of_the_undoing_that_hangs_does_not_keep_the_others_from_being_done(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    one.steps.fault = (UNDONE_STEPS.index("listen"), RefusedError("no"))
    attacher: Any = one.attacher
    hanging = attacher.unbind

    async def unbind(endpoint_id: EndpointId) -> None:
        await trio.sleep_forever()

    attacher.unbind = unbind
    with pytest.raises(RefusedError):
        await one.endpoints.attach(request())
    assert set(one.traces()) == {"interfaces"}
    attacher.unbind = hanging
    await one.garbage_collector.recover()
    assert one.traces() == {}


@virtual
async def test_cancelled_while_the_names_follow_the_endpoint_is_attached(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    one.steps.fault = ("followed", HANG)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.endpoints.attach, request())
            await one.steps.reached.wait()
            scope.cancel()
    (row,) = one.live.rows.values()
    assert row.is_published
    assert one.own_endpoints() == {row.endpoint_id}


@virtual
async def test_names_that_do_not_follow_hold_an_attach_up_for_a_bounded_time(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    one.steps.fault = ("followed", HANG)
    begun = trio.current_time()
    await one.endpoints.attach(request())
    assert trio.current_time() - begun == pytest.approx(2.0)


@virtual
async def test_a_device_that_is_not_built_is_named(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    for device in ("na-1161", "nx-1161"):
        one.projection.trouble = {device: "another program's device vxlan9 uses VNI 1161"}
        with refused(RefusedError, "datapath", "app", "vxlan9"):
            await one.endpoints.attach(request())
    one.projection.trouble.clear()
    one.steps.fault = ("programmed", HANG)
    begun = trio.current_time()
    with refused(FailedError, "datapath", f"within {BRIDGE_S:.0f} s"):
        await one.endpoints.attach(request())
    assert trio.current_time() - begun == pytest.approx(BRIDGE_S)
    assert one.traces() == {}


@virtual
async def test_a_namespace_that_is_exchanged_in_the_middle_is_not_published(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    attacher: Any = one.attacher
    bind: Bind = attacher.bind

    async def exchange(endpoint: LocalEndpoint) -> str:
        namespaces.replace("web")
        return await bind(endpoint)

    attacher.bind = exchange
    with refused(RefusedError, "namespace-gone", "netns:web"):
        await one.endpoints.attach(request())
    assert one.traces() == {}


@virtual
async def test_a_bridge_that_went_with_its_network_is_no_failure(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")

    async def bind(endpoint: LocalEndpoint) -> str:
        one.hear(Writer(H2).put(RemovalRecord(N1)))
        raise FailedError("cannot create the interface: Invalid argument", code="bind-failed")

    attacher: Any = one.attacher
    attacher.bind = bind
    with refused(RefusedError, "network-removed", "removed"):
        await one.endpoints.attach(request())
    assert one.traces() == {}


@pytest.mark.parametrize("position", range(1, UNDONE_STEPS.count("journal") + 1))
@virtual
async def test_a_network_that_is_removed_in_the_middle_is_said_to_be_gone(
    namespaces: Namespaces, position: int
) -> None:
    one = await started(namespaces, "web")
    journal: Any = one.journal
    original = journal.transaction
    count = 0

    async def transaction(statements: list[Statement], *, grows: bool = False) -> list[int]:
        nonlocal count
        count += 1
        done: list[int] = await original(statements, grows=grows)
        if count == position:
            writer = Writer(H2)
            one.hear(writer.put(RemovalRecord(N1)))
        return done

    journal.transaction = transaction
    try:
        await one.endpoints.attach(request())
    except (RefusedError, NotFoundError) as error:
        assert error.thing  # noqa: PT017 - it may also come too late to be refused
    else:  # too late for this attach: the garbage collector sees to it
        await one.garbage_collector._look_around()
    assert one.traces() == {}


@virtual
async def test_a_sandbox_that_left_one_of_two_networks_has_forgotten_it_when_the_removal_returns(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    row, _ = await one.endpoints.attach(request(network_name="back", name="web"))
    one.steps.done.clear()
    await one.endpoints.remove(row)
    assert one.steps.done[-1] == "followed"


@virtual
async def test_a_mac_that_was_asked_for_is_given_once(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "db")
    row, _ = await one.endpoints.attach(request(mac="06:00:00:00:00:01"))
    assert row.mac == "06:00:00:00:00:01" == one.live.view.endpoints[row.endpoint_id].record.mac
    with refused(RefusedError, "mac-in-use", "belongs to web on host", "--mac"):
        await one.endpoints.attach(request("netns:db", mac="06:00:00:00:00:01"))


@virtual
async def test_the_mac_of_an_address_goes_with_that_address_only(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "db")
    with refused(RefusedError, "mac-in-use", "an address of this network", "--mac"):
        await one.endpoints.attach(request(mac=mac_of(N1, 9)))
    with refused(RefusedError, "mac-in-use", "an address of this network", "--mac"):
        await one.endpoints.attach(request(mac=mac_of(N1, 9), addresses=("10.1.0.8",)))
    row, _ = await one.endpoints.attach(request(mac=mac_of(N1, 9), addresses=("10.1.0.9",)))
    assert row.mac == mac_of(N1, 9)


@virtual
async def test_an_unknown_network_namespace_or_name_is_refused_before_anything_is_done(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    with refused(NotFoundError, "no-such-network", "'nowhere'", "network ls"):
        await one.endpoints.attach(request(network_name="nowhere"))
    with refused(RefusedError, "namespace-gone", "gone"):
        await one.endpoints.attach(request("netns:gone"))
    with refused(InputError, "bad-input", "no valid endpoint name", "--name"):
        await one.endpoints.attach(request(str(namespaces.folder.parent / "netns" / ".." / "netns" / "web")))
    assert one.steps.done == []
    assert one.traces() == {}


# -- clashes --------------------------------------------------------------------------------------------------------


@virtual
async def test_a_name_is_used_once_on_a_host_and_network(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "other")
    await one.endpoints.attach(request())
    with refused(RefusedError, "name-in-use", "'web'", "--name", "--service"):
        await one.endpoints.attach(request("netns:other", name="web"))
    await one.endpoints.attach(request("netns:other", "back", name="web"))


@virtual
async def test_of_two_at_once_with_one_name_one_is_refused(namespaces: Namespaces) -> None:
    one = await started(namespaces, "a", "b")
    outcomes: list[bool | str] = []

    async def attach(target: str) -> None:
        try:
            outcomes.append((await one.endpoints.attach(request(target, name="web")))[1])
        except RefusedError as error:
            outcomes.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attach, "netns:a")
        nursery.start_soon(attach, "netns:b")
    assert sorted(map(str, outcomes)) == ["True", "name-in-use"]
    assert len(one.live.rows) == 1


@virtual
async def test_the_same_attach_twice_at_once_makes_one_endpoint(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    created = []

    async def attach() -> None:
        created.append((await one.endpoints.attach(request()))[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attach)
        nursery.start_soon(attach)
    assert sorted(created) == [False, True]
    assert not len(one.endpoints.context.locks)


@pytest.mark.parametrize(
    "change",
    [
        {"service": "shop"},
        {"aliases": ("www",)},
        {"labels": (("a", "b"),)},
        {"links": (Link("db", "db"),)},
        {"addresses": ("10.1.0.77",)},
        {"ifname": "net9"},
        {"group": Group("shop")},
    ],
    ids=lambda change: next(iter(change)),
)
@virtual
async def test_attaching_again_with_other_wishes_is_refused(namespaces: Namespaces, change: Any) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    with refused(RefusedError, "already-attached", "netns:web", "web (10.1.0.2", "netagent detach web"):
        await one.endpoints.attach(request(**change))


@virtual
async def test_an_address_in_use_is_refused_with_its_holder(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "other")
    await other_host(one, endpoint(1, offset=40))
    with refused(RefusedError, "address-in-use", "10.1.0.40", "web1", "host h2"):
        await one.endpoints.attach(request(addresses=("10.1.0.40",)))
    with refused(RefusedError, "address-in-use", "fd00:1::28", "web1"):
        await one.endpoints.attach(request(addresses=("fd00:1::28",)))
    row, _ = await one.endpoints.attach(request(addresses=("10.1.0.50", "fd00:1::32")))
    assert row.addresses == ("10.1.0.50", "fd00:1::32")
    with refused(RefusedError, "address-in-use", "10.1.0.50", "host h1"):
        await one.endpoints.attach(request("netns:other", addresses=("10.1.0.50",)))


@virtual
async def test_the_holder_of_an_address_is_named_even_if_its_host_is_not_known(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    one.hear(Writer(H2).put(endpoint(1, offset=40)))
    with refused(RefusedError, "address-in-use", "web1", f"host {H2[:8]}"):
        await one.endpoints.attach(request(addresses=("10.1.0.40",)))


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        (("10.9.0.5",), ("10.9.0.5", "10.1.0.0/24")),
        (("10.1.0.1",), ("10.1.0.1", "first two")),
        (("10.1.0.255",), ("10.1.0.255",)),
        (("10.1.0.5", "fd00:1::6"), ("do not have the same offset",)),
    ],
)
@virtual
async def test_an_address_that_the_network_does_not_give_out_is_refused(
    namespaces: Namespaces, addresses: tuple[str, ...], words: tuple[str, ...]
) -> None:
    one = await started(namespaces, "web")
    with refused(RefusedError, "bad-address", *words):
        await one.endpoints.attach(request(addresses=addresses))
    assert one.traces() == {}


# -- sandboxes ------------------------------------------------------------------------------------------------------


@virtual
async def test_one_sandbox_in_two_networks_keeps_its_name_and_its_resolver(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    first, _ = await one.endpoints.attach(request(name="shop"))
    second, _ = await one.endpoints.attach(request(network_name="back"))
    assert second.name == "shop"
    text = (namespaces.folder.parent / "etc" / "web" / "resolv.conf").read_text()
    assert "search app.mesh.internal back.mesh.internal mesh.internal" in text
    await one.endpoints.detach(first.endpoint_id)
    assert len(one.resolvers.sandboxes) == 1
    text = (namespaces.folder.parent / "etc" / "web" / "resolv.conf").read_text()
    assert "search back.mesh.internal mesh.internal" in text
    await one.endpoints.detach("shop")
    assert one.traces() == {}


def egress_interfaces(one: AgentHost) -> list[tuple[str, ...] | tuple[str, str]] | list[tuple[str, str]]:
    """By which network each endpoint that was bound last gives its sandbox a default route."""
    return [endpoint.gateways for endpoint in one.attacher.bound]


@virtual
async def test_a_sandbox_has_its_group_in_each_of_its_networks_and_others_learn_of_it(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    shop = Group("shop", "web")
    row, _ = await one.endpoints.attach(request(group=shop, aliases=("web", "www")))
    second, _ = await one.endpoints.attach(request(network_name="back"))
    assert (row.group, second.group) == (shop, shop)
    assert await one.endpoints.attach(request(aliases=("web", "www"))) == (row, False)
    record = one.live.view.endpoints[row.endpoint_id].record
    assert (record.group, record.aliases) == (shop, ("www",))
    changed = await one.endpoints.change(row.endpoint_id, group=None)
    assert changed is not None
    assert changed.group is None
    renamed = await one.endpoints.change(row.endpoint_id, service="x")
    assert renamed is not None
    assert renamed.group is None
    assert one.live.view.endpoints[row.endpoint_id].record.aliases == ("web", "www")


@virtual
async def test_the_first_network_that_is_not_internal_gives_the_default_route(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await one.publisher.put(network(N3, "closed", subnets=("10.3.0.0/24",), internal=True))
    closed, _ = await one.endpoints.attach(request(network_name="closed"))
    first, _ = await one.endpoints.attach(request())
    second, _ = await one.endpoints.attach(request(network_name="back"))
    assert egress_interfaces(one) == [(), ("10.1.0.1", "fd00:1::1"), ()]
    assert one.endpoints.gateways_of(closed) == ()
    await one.endpoints.detach(first.endpoint_id)
    assert one.attacher.bound[-1].endpoint_id == second.endpoint_id
    assert egress_interfaces(one)[-1] == ("10.2.0.1",), "the next one takes over"
    await one.endpoints.detach(second.endpoint_id)
    assert len(one.attacher.bound) == 4
    await one.endpoints.detach("web")
    assert one.traces() == {}


@virtual
async def test_a_failed_second_attach_leaves_the_first_one_whole(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    before = one.traces()
    one.steps.done.clear()
    one.steps.fault = (len(UNDONE_STEPS) - 1, DiskFullError("full"))
    with pytest.raises(DiskFullError):
        await one.endpoints.attach(request(network_name="back"))
    assert one.traces() == before


# -- detach ---------------------------------------------------------------------------------------------------------


@virtual
async def test_a_detach_goes_backwards_the_name_first(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    row, _ = await one.endpoints.attach(request())
    one.steps.done.clear()
    assert await one.endpoints.detach("web") == row
    assert one.steps.done == [
        "journal",  # the record has no names
        "hidden",
        "journal",  # no record, and the row only reserved from now on
        "followed",
        "silence",
        "unbind",
        "journal",  # no row
    ]
    assert one.traces() == {}


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("fault", ["kernel", "cancelled"])
@virtual
async def test_a_detach_that_stops_anywhere_is_finished_by_the_janitor(
    namespaces: Namespaces, position: int, fault: str
) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    one.steps.done.clear()
    one.steps.fault = (position, FailedError("no") if fault == "kernel" else HANG)
    # That the names can't be taken back first (a full disk) does not prevent detaching.
    is_begun = position > 2 or (position == 0 and fault == "kernel")
    async with trio.open_nursery() as nursery:

        async def detach() -> None:
            with contextlib.suppress(FailedError):
                await one.endpoints.detach("web")

        nursery.start_soon(detach)
        await one.steps.reached.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not len(one.endpoints.context.locks)
    await one.garbage_collector._look_around()
    assert (one.traces() == {}) is is_begun, "what was not begun is as before; what was begun is finished"
    if not is_begun and fault == "kernel":
        assert [e for e in one.live.view.endpoints.values() if one.live.view.is_visible(e)], "with its names"


@pytest.mark.parametrize("position", [1, 2])
@virtual
async def test_a_detach_that_a_stop_cut_off_before_its_end_began_leaves_the_endpoint_its_names(
    namespaces: Namespaces, position: int
) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    one.steps.done.clear()
    one.steps.fault = (position, HANG)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.endpoints.detach, "web")
        await one.steps.reached.wait()
        nursery.cancel_scope.cancel()
    (known,) = one.live.view.endpoints.values()
    assert not one.live.view.is_visible(known)
    one.restart()
    await one.garbage_collector.recover()
    (known,) = one.live.view.endpoints.values()
    assert one.live.view.is_visible(known)


@virtual
async def test_a_detach_gives_clients_the_time_that_was_agreed(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await started(namespaces, "web")
    talking = [True] * 15

    async def has_connection(*_: object) -> bool:
        return bool(talking) and talking.pop()

    monkeypatch.setattr("netagent.endpoints.drain.has_connection", has_connection)
    for drain_s, least_s, most_s in ((None, 1.0, 1.3), (0.0, 0.0, 0.1), (8.0, 6.9, 7.2), (5.8, 5.7, 5.9)):
        talking[:] = [True] * 15
        await one.endpoints.attach(request())
        begun = trio.current_time()
        await one.endpoints.detach("web", drain_s)
        assert least_s <= trio.current_time() - begun <= most_s, drain_s
    assert one.traces() == {}


@pytest.mark.parametrize("position", range(3, 7))
@virtual
async def test_a_detach_that_a_stop_cut_off_is_finished_by_the_next_start(
    namespaces: Namespaces, position: int
) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    one.steps.done.clear()
    one.steps.fault = (position, FailedError("stopped"))
    with pytest.raises(FailedError):
        await one.endpoints.detach("web")
    one.restart()
    await one.garbage_collector.recover()
    assert one.traces() == {}


@virtual
async def test_detaching_twice_at_once_is_one_detach(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    row, _ = await one.endpoints.attach(request())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.endpoints.remove, row)
        nursery.start_soon(one.endpoints.remove, row)
    assert one.steps.done.count("unbind") == 1
    assert one.traces() == {}


@virtual
async def test_an_endpoint_is_found_by_id_and_others_are_explained(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "other")
    await other_host(one, endpoint(7, offset=40))
    await one.endpoints.attach(request())
    second, _ = await one.endpoints.attach(request("netns:other", "back", name="web"))
    with refused(InputError, "bad-input", "2 endpoints", "netns:web", "netns:other", "web.NETWORK"):
        await one.endpoints.detach("web")
    with refused(RefusedError, "other-host", "'web7.h2.app'", "host h2"):
        await one.endpoints.detach("web7.h2.app")
    for absent in ("web.nowhere", "web.h2.app", "web7.h1.app", "web.", "web.app.h1", ".app"):
        with refused(NotHereError, "no-such-endpoint", repr(absent)):
            await one.endpoints.detach(absent)
    assert await one.endpoints.publish("web.app", HTTP) == await one.endpoints.publish("web.h1.app", HTTP)
    assert [row.name for row in one.live.rows.values() if row.publish] == ["web"]
    with refused(RefusedError, "other-host", "'web7'", "host h2"):
        await one.endpoints.detach("web7")
    with refused(NotHereError, "no-such-endpoint", "'nobody'"):
        await one.endpoints.detach("nobody")
    assert (await one.endpoints.detach(second.endpoint_id[:8])).endpoint_id == second.endpoint_id


# -- published ports ------------------------------------------------------------------------------------------------

HTTP, DNS = Publication(18080, 80), Publication(15353, 53, "udp", 2)


@virtual
async def test_scenario_47_publishing_and_unpublishing_twice_is_as_once(namespaces: Namespaces) -> None:
    """Ports; and the record, which is what else an endpoint publishes."""
    one = await started(namespaces, "web")
    row, created = await one.endpoints.attach(request(publish=(HTTP,)))
    assert (row.publish, created) == ((HTTP,), True)
    assert await one.endpoints.attach(request(publish=(HTTP,))) == (row, False)
    one.steps.done.clear()
    assert await one.endpoints.publish("web", HTTP) == row
    assert one.steps.done == [], "nothing is written, and no caller waits"
    row = await one.endpoints.publish("web", DNS)
    assert row.publish == (DNS, HTTP)
    assert await one.endpoints.publish("web", DNS) == row
    assert one.journal.load_endpoints() == [row]
    row = await one.endpoints.unpublish("web", DNS)
    assert row.publish == (HTTP,)
    assert await one.endpoints.unpublish("web", DNS) == row
    row = await one.endpoints.unpublish("web", HTTP)
    assert row.publish == one.journal.load_endpoints()[0].publish == ()

    [record] = [view.record for view in one.live.view.endpoints.values()]
    view = one.live.view
    await one.publisher.put(record)
    assert [known.record for known in one.live.view.endpoints.values()] == [record]
    for _ in range(2):
        await one.publisher.withdraw(record)
        assert not one.live.view.endpoints
    await one.publisher.put(record)
    assert list(one.live.view.endpoints) == list(view.endpoints)
    await one.endpoints.detach("web")
    with refused(NotHereError, "no-such-endpoint", "web"):
        await one.endpoints.detach("web")
    assert not one.live.view.endpoints


@virtual
async def test_a_port_belongs_to_one_endpoint_of_the_host(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "other")
    await one.endpoints.attach(request(publish=(HTTP,)))
    for wanted in (
        HTTP,
        Publication(18000, 8000, "tcp", 100),
        Publication(18080, 80, address="127.0.0.1"),
        Publication(18080, 80, address="::"),
    ):
        with refused(RefusedError, "port-in-use", "18", "published by web (18080:80/tcp)"):
            await one.endpoints.attach(request("netns:other", publish=(wanted,)))
    assert len(one.live.rows) == 1
    row, _ = await one.endpoints.attach(request("netns:other", publish=(Publication(18080, 80, "udp"),)))
    with refused(RefusedError, "port-in-use", "published by web"):
        await one.endpoints.publish("other", HTTP)
    with refused(
        RefusedError, "port-in-use", "already leads to another port of other", "netagent unpublish other"
    ):
        await one.endpoints.publish("other", Publication(18080, 81, "udp"))
    with refused(RefusedError, "already-attached", "with another --publish;", "netagent detach web"):
        await one.endpoints.attach(request(publish=(DNS,)))
    await one.endpoints.detach("web")
    assert (await one.endpoints.publish("other", HTTP)).publish == (HTTP, *row.publish)


@virtual
async def test_two_attaches_at_once_do_not_get_one_port(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "other")
    results = []

    async def attach(target: str) -> None:
        try:
            results.append((await one.endpoints.attach(request(target, publish=(HTTP,))))[0].name)
        except RefusedError as error:
            results.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attach, "netns:web")
        nursery.start_soon(attach, "netns:other")
    assert sorted(results) in (["other", "port-in-use"], ["port-in-use", "web"])
    assert sum(len(row.publish) for row in one.live.rows.values()) == 1


@virtual
async def test_an_address_that_the_host_has_not_got_is_refused(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    for address in ("192.0.2.77", "2001:db8::77"):
        with refused(RefusedError, "no-such-address", address, "ip address"):
            await one.endpoints.attach(request(publish=(Publication(18080, 80, address=address),)))
    assert not one.live.rows
    await one.endpoints.attach(request(publish=(Publication(18080, 80, address="127.0.0.1"),)))


@virtual
async def test_a_port_at_which_the_host_listens_is_refused_with_the_program_named(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        here = f"port {number}/tcp of this host is used by", f"(pid {os.getpid()})"
        for address in ("", "127.0.0.1"):
            with refused(RefusedError, "port-in-use", *here):
                await one.endpoints.attach(request(publish=(Publication(number, 80, address=address),)))
        for free in (Publication(number, 80, "udp"), Publication(number, 80, address="127.0.0.2")):
            await one.endpoints.attach(request(publish=(free,)))
            await one.endpoints.detach("web")
    await one.endpoints.attach(request(publish=(Publication(number, 80),)))


@virtual
async def test_what_is_unreachable_from_outside_is_not_published(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await one.publisher.put(network(N3, "deep", subnets=("10.3.0.0/24",), internal=True))
    with refused(RefusedError, "internal", "network deep is internal"):
        await one.endpoints.attach(request(network_name="deep", publish=(HTTP,)))
    six = Publication(18080, 80, address="2001:db8::1")
    with refused(RefusedError, "no-family", "network back has no addresses of the family of 2001:db8::1"):
        await one.endpoints.attach(request(network_name="back", publish=(six,)))
    assert one.traces() == {}


# -- links ----------------------------------------------------------------------------------------------------------


@virtual
async def test_links_come_and_go_and_are_on_disk(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    one.steps.done.clear()
    link = Link("db.back", "database")
    row = await one.endpoints.link("web", link)
    assert row.links == (link,)
    assert one.journal.load_endpoints() == [row]
    assert one.steps.done == ["journal", "followed"]
    assert await one.endpoints.link("web", link) == row
    assert one.steps.done == ["journal", "followed"], "the same again changes nothing"
    assert (await one.endpoints.unlink("web", link)).links == ()
    with refused(NotFoundError, "not-found", "db.back:database"):
        await one.endpoints.unlink("web", link)


@virtual
async def test_an_alias_means_one_service_in_a_sandbox(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "other")
    await one.endpoints.attach(request(links=(Link("db", "database"),)))
    with refused(RefusedError, "alias-in-use", "'database'", "db", "netagent unlink web db:database"):
        await one.endpoints.link("web", Link("db2", "database"))
    with refused(RefusedError, "alias-in-use", "'database'"):
        await one.endpoints.attach(request(network_name="back", links=(Link("db2", "database"),)))
    await one.endpoints.attach(request("netns:other", links=(Link("db2", "database"),)))
    assert len(one.live.rows) == 2


@virtual
async def test_links_are_published_whatever_the_policy_is_now(namespaces: Namespaces) -> None:
    """Of the whole sandbox's, for each of its endpoints those in its network: a policy may change."""
    one = await started(namespaces, "web")
    strict = network(N3, "strict", subnets=("10.3.0.0/24",), policy=Policy.LINKS)
    await one.publisher.put(strict)

    def reported(network_id: NetworkId) -> tuple[str, ...]:
        [found] = one.live.view.endpoints_in(network_id).values()
        return found.record.links

    await one.endpoints.attach(request(network_name="strict"))
    assert reported(N3) == ()
    await one.endpoints.attach(request(links=(Link("db", "db"), Link("db.back", "other"))))
    assert (reported(N1), reported(N3)) == (("db",), ("db",))
    in_app = next(row for row in one.live.rows.values() if row.network_id == N1)
    for service in ("shop.strict", "cache1.h2.strict.mesh.internal"):
        await one.endpoints.link(in_app.endpoint_id, Link(service, service.partition(".")[0]))
    assert reported(N3) == ("cache1.h2", "db", "shop")
    await one.endpoints.unlink(in_app.endpoint_id, Link("shop.strict", "shop"))
    assert reported(N3) == ("cache1.h2", "db")
    for service in ("pg.shop", "pg.blog.strict"):
        await one.endpoints.link(in_app.endpoint_id, Link(service, service.rpartition(".")[2]))
    assert reported(N3) == ("cache1.h2", "db", "pg.blog", "pg.shop"), "of groups"
    await one.endpoints.detach(in_app.endpoint_id)
    assert reported(N3) == ()


@virtual
async def test_two_links_made_at_once_both_stay(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request())
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(one.endpoints.link, "web", Link(f"s{number}", f"a{number}"))
    (row,) = one.live.rows.values()
    assert {link.service for link in row.links} == {"s0", "s1", "s2"}
    assert one.journal.load_endpoints() == [row]


@virtual
async def test_a_link_that_waits_for_a_detach_does_not_bring_the_endpoint_back(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    row, _ = await one.endpoints.attach(request())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.endpoints.remove, row)
        await trio.testing.wait_all_tasks_blocked(0)
        with refused(NotHereError, "no-such-endpoint", "'web'"):
            async with one.endpoints._called("web"):
                pass
        with refused(NotHereError, "no-such-endpoint", "'web'"):
            await one.endpoints.link("web", Link("db", "db"))
    assert one.traces() == {}


@virtual
async def test_leftover_state_of_other_hosts_never_counts_as_ours(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await other_host(one, dataclasses.replace(endpoint(1, offset=40), name="web"))
    one.meet(H2, MemberState.DEAD)
    row, created = await one.endpoints.attach(request())
    assert created
    assert row.name == "web", "names are per host"


# -- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(9))
@virtual
async def test_an_attach_at_work_leaves_nothing_when_the_host_leaves(
    namespaces: Namespaces, step: int
) -> None:
    one = await started(namespaces, "web", "other")
    await one.endpoints.attach(request("netns:other"))
    one.steps.done.clear()
    one.steps.fault = (step, HANG)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def attach() -> None:
            with scope, contextlib.suppress(RefusedError):
                await one.endpoints.attach(request())
                one.steps.reached.set()

        nursery.start_soon(attach)
        await one.steps.reached.wait()
        one.steps.fault = None
        with one.endpoints.context.closed():
            nursery.start_soon(one.endpoints.remove_all)
            await trio.sleep(1)
            scope.cancel()
            await trio.sleep(1)
            with refused(RefusedError, "leaving", "join"):
                await one.endpoints.attach(request())
    assert one.traces() == {}


@virtual
async def test_an_attach_that_learns_what_is_in_the_network_does_not_outlive_the_leaving(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    one.is_syncing = False
    async with trio.open_nursery() as nursery:

        async def attach() -> None:
            with refused(RefusedError, "leaving", "join"):
                await one.endpoints.attach(request())

        async def hold() -> None:
            with refused(RefusedError, "leaving", "join"):
                await one.endpoints.staged.hold(N1)

        nursery.start_soon(attach)
        nursery.start_soon(hold)
        await trio.sleep(1)
        with one.endpoints.context.closed():
            assert await one.endpoints.remove_all() == 0
            one.participation.note_synced(N1)
            await trio.sleep(1)
    assert one.traces() == {}


# -- checks --------------------------------------------------------------------------------------------------------


CHECK = parse_check_untrusted("http:8080/healthz")
SICK = CheckedHealth(
    Health.UNHEALTHY, HealthNote(1_700_000_000, "http 503 from 8080/healthz, failed 3 of 3 times")
)
WELL = CheckedHealth(Health.HEALTHY, HealthNote(1_700_000_060))


@virtual
async def test_other_hosts_learn_what_the_checks_found_and_not_what_the_runtime_says(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    row, _ = await one.endpoints.attach(request(checks=(CHECK,)))
    record = one.live.view.endpoints[row.endpoint_id].record
    assert record.health is Health.STARTING
    assert record.health_note is not None
    assert record.health_note.reason == "http:8080/healthz has not succeeded yet"
    await one.endpoints.change(row.endpoint_id, health=Health.HEALTHY)
    assert one.live.view.endpoints[row.endpoint_id].record.health is Health.STARTING
    for checked in (SICK, WELL):
        await one.endpoints.set_checked(one.live.rows[row.endpoint_id], checked)
        record = one.live.view.endpoints[row.endpoint_id].record
        assert (record.health, record.health_note) == (checked.health, checked.note)


@virtual
async def test_other_hosts_learn_that_an_endpoint_keeps_its_names(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    row, _ = await one.endpoints.attach(request(checks=(CHECK,), keeps_names=True))
    assert not one.live.view.is_kept(one.live.view.endpoints[row.endpoint_id]), (
        "never before its first success"
    )
    await one.endpoints.set_checked(row, SICK)
    found = one.live.view.endpoints[row.endpoint_id]
    assert found.record.health_note == dataclasses.replace(SICK.note, keeps_names=True)
    assert one.live.view.is_kept(found)
    with pytest.raises(RefusedError, match="with another --all-failing"):
        await one.endpoints.attach(request(checks=(CHECK,)))


@virtual
async def test_without_checks_other_hosts_learn_what_the_runtime_says_and_since_when(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    row, _ = await one.endpoints.attach(request(), health=Health.STARTING)
    before = int(time.time())
    await one.endpoints.change(row.endpoint_id, health=Health.UNHEALTHY)
    record = one.live.view.endpoints[row.endpoint_id].record
    assert record.health is Health.UNHEALTHY
    assert record.health_note is not None
    assert before <= record.health_note.since_s <= time.time()


@virtual
async def test_what_was_found_with_other_checks_or_elsewhere_does_not_count(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    seen, _ = await one.endpoints.attach(request(checks=(CHECK,)))
    assert isinstance(seen.stage, Published)
    netns = dataclasses.replace(seen.stage.netns, identity=(9, 9))
    elsewhere = dataclasses.replace(seen, stage=dataclasses.replace(seen.stage, netns=netns))
    await one.endpoints.set_checked(elsewhere, WELL)
    assert one.live.rows[seen.endpoint_id].checked == seen.checked
    await one.endpoints.set_checked(seen, WELL)
    await one.endpoints.change(seen.endpoint_id, checks=(parse_check_untrusted("tcp:8080"),))
    checked = one.live.rows[seen.endpoint_id].checked
    assert checked is not None
    assert checked.health is Health.STARTING
    await one.endpoints.set_checked(seen, WELL)
    assert one.live.view.endpoints[seen.endpoint_id].record.health is Health.STARTING


@virtual
async def test_the_same_attach_with_another_check_is_refused(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    await one.endpoints.attach(request(checks=(CHECK,)))
    assert (await one.endpoints.attach(request(checks=(CHECK,))))[1] is False
    with pytest.raises(RefusedError, match="with another --check"):
        await one.endpoints.attach(request())


@virtual
async def test_a_command_needs_a_runtime_that_runs_it(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    with pytest.raises(
        RefusedError, match="netns:web has no runtime that runs commands in it; use a check by http"
    ):
        await one.endpoints.attach(request(checks=(parse_check_untrusted("exec:/bin/ready"),)))
