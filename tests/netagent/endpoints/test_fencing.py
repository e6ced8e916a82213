"""What becomes of a host's endpoints when the cluster has forgotten it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
import trio
from fakes.agent_host import AgentHost, Namespaces
from fakes.registry import H2, Writer
from fakes.rows import local_row
from fakes.scratch_state import network_inputs
from fakes.virtual import virtual

from netagent.endpoints.fencing import fence_all, sweep_fenced
from netagent.errors import NotFoundError
from netagent.eviction.rejoin import reset_journal, wait_evicted
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.model.ids import NetworkId
from netagent.model.records import ForgetRecord
from netagent.model.request import AttachRequest, NetworkRequest

WEB = AttachRequest(target="netns:web", network="app")


async def attached(namespaces: Namespaces, *names: str) -> AgentHost:
    """A host with a network and one endpoint in each of these namespaces."""
    namespaces.make(*names)
    host = AgentHost()
    await host.networks.create(NetworkRequest(name="app"))
    for name in names:
        await host.endpoints.attach(AttachRequest(target=f"netns:{name}", network="app"))
    return host


def noted(host: AgentHost) -> list[str]:
    return sorted(row.name for row in host.live.fenced.values())


@virtual
async def test_everything_is_taken_down_but_for_a_note(namespaces: Namespaces) -> None:
    host = await attached(namespaces, "web", "db")
    assert await fence_all(host.live, host.journal, host.endpoints.remove_all) == 2
    assert not host.traces()
    assert noted(host) == ["db", "web"]
    assert await fence_all(host.live, host.journal, host.endpoints.remove_all) == 0
    assert noted(host) == ["db", "web"], "again, after a failure: the notes stay"


@virtual
async def test_an_attach_of_the_same_sandbox_or_name_replaces_the_note(namespaces: Namespaces) -> None:
    host = await attached(namespaces, "web", "db")
    await fence_all(host.live, host.journal, host.endpoints.remove_all)
    await host.endpoints.attach(dataclasses.replace(WEB, name="other"))
    assert noted(host) == ["db"]
    namespaces.replace("db")
    await host.endpoints.attach(AttachRequest(target="netns:db", network="app"))
    assert noted(host) == []


@virtual
async def test_a_detach_drops_the_note_and_then_knows_nothing_of_it(namespaces: Namespaces) -> None:
    host = await attached(namespaces, "web")
    await fence_all(host.live, host.journal, host.endpoints.remove_all)
    assert (await host.endpoints.detach("web")).name == "web"
    assert noted(host) == []
    with pytest.raises(NotFoundError):
        await host.endpoints.detach("web")


@virtual
async def test_the_note_of_a_container_that_is_gone_goes_too(namespaces: Namespaces) -> None:
    host = await attached(namespaces, "web", "db")
    await fence_all(host.live, host.journal, host.endpoints.remove_all)
    namespaces.remove("web")
    await sweep_fenced(host.live, host.journal, host.context.boot_id)
    assert noted(host) == ["db"]
    await sweep_fenced(host.live, host.journal, "another boot")
    assert noted(host) == []


@virtual
async def test_from_the_first_word_on_its_containers_are_alone(namespaces: Namespaces) -> None:
    host = await attached(namespaces, "web")
    with trio.move_on_after(10) as patience:
        await wait_evicted(host.live, trio.Event())
    assert patience.cancelled_caught
    host.hear(Writer(H2).put(ForgetRecord(host.host_id, settled=True)))
    await wait_evicted(host.live, trio.Event())
    (network,) = network_inputs(host.live.view, host.live.rows.values(), "192.0.2.1")
    assert network.locals
    assert not network.remotes


async def forget_and_look(file: Path) -> None:
    row = local_row("e1" * 16, "a1" * 16, offset=5)
    with contextlib.closing(Journal.open(file)) as journal:
        await journal.save_endpoint(row)
        await journal.transaction([statements.fence(row), statements.cool(NetworkId("a1" * 16), 7)])
    await reset_journal(file)
    with contextlib.closing(Journal.open(file)) as journal:
        assert journal.load_fenced() == [row]
        assert not any((journal.load_endpoints(), journal.load_cooling(), journal.load_own_logs()))
        await journal.transaction([statements.unfence(row.endpoint_id)])
        assert not journal.load_fenced()


def test_the_next_identity_finds_the_notes_and_nothing_else(tmp_path: Path) -> None:
    trio.run(forget_and_look, tmp_path / "state.db")
