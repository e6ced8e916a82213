"""Flows of other hosts: page by page, with a bound, and what is missing is said."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio
from fakes.agent_host import AgentHost
from fakes.registry import H1, H2, H3, N1, Writer, endpoint, host, network
from fakes.rows import local_row
from fakes.virtual import virtual

from netagent.datapath.flows.counters import CountingTrouble, FlowReading
from netagent.datapath.flows.layout import KEY, MAPPED, VALUE, Share
from netagent.flows import reader
from netagent.flows.departed import DepartedTarget
from netagent.flows.reader import FlowReader, HostFlows
from netagent.flows.wire import FlowQuestion
from netagent.model.ids import HostId, veth_name
from netagent.model.records import AttachmentRecord

PORT, NUMBER = 7, 1
WEB = endpoint(1, offset=2, name="web1", service="web")


class Counted:
    """Counters in which one container opened flows to so many addresses."""

    def __init__(self, flows: int) -> None:
        self.trouble: CountingTrouble | None = None
        self.port_troubles: dict[int, CountingTrouble] = {}
        self.ports = {PORT: veth_name(WEB.endpoint_id)}
        self.bridges: dict[int, str] = {}
        self.readings = 0
        self.address = IPv4Address("192.0.2.0")
        self._flows = flows

    async def read(self) -> FlowReading:
        self.readings += 1
        await trio.sleep(0.01)
        first = int(self.address)
        keys = (
            KEY.pack(NUMBER, 0, 6, MAPPED + IPv4Address(first + number).packed)
            for number in range(self._flows)
        )
        elements = tuple((key, VALUE.pack(1, 0, 0, 0)) for key in keys)
        return FlowReading(elements, {PORT: Share(NUMBER, self._flows, 9)}, 0)


async def unasked(peer: HostId, payload: bytes) -> bytes | None:
    raise AssertionError("this host asks no other")


NO_NOTES = Path("/dev/null")


def teller(flows: int) -> tuple[FlowReader, Counted]:
    """A host whose container web1 opened flows."""
    one, counted = AgentHost(), Counted(flows)
    one.hear(Writer(H2).put(host("h2")))
    own = Writer(H1)
    for record in (host("h1"), network(N1), WEB):
        one.hear(own.put(record))
    one.live.set_row(local_row(WEB.endpoint_id, N1))
    return FlowReader(one.live, counted, unasked, NO_NOTES), counted  # type: ignore[arg-type]


async def asked(
    told_by: FlowReader, question: FlowQuestion, asker: AgentHost | None = None
) -> dict[HostId, HostFlows]:
    """What a host learns from H2, which has these flows, and from H3, which never answers."""

    async def ask(peer: HostId, payload: bytes) -> bytes | None:
        if peer == H3:
            return None
        await trio.sleep(0.02)
        return await told_by.answer(payload)

    asking = FlowReader((asker or AgentHost()).live, Counted(0), ask, NO_NOTES)  # type: ignore[arg-type]
    return dict(await asking.ask_others((H2, H3), question))


@virtual
async def test_all_pages_come_from_one_reading() -> None:
    told_by, counted = teller(200)
    found = await asked(told_by, FlowQuestion())
    assert len({flow.address for flow in found[H2].flows}) == len(found[H2].flows) == 200
    assert (found[H2].is_cut, found[H2].left_out, found[H2].has_answered) == (False, {"web1": 9}, True)
    assert found[H3] == HostFlows(has_answered=False)
    assert counted.readings == 1
    await asked(told_by, FlowQuestion())
    assert counted.readings == 2


@virtual
async def test_a_host_sends_only_what_was_asked_for() -> None:
    told_by, _ = teller(200)
    found = await asked(told_by, FlowQuestion(target="192.0.2.77"))
    assert [flow.address for flow in found[H2].flows] == ["192.0.2.77"]
    assert (await asked(told_by, FlowQuestion(is_refused=True)))[H2].flows == []
    assert (await asked(told_by, FlowQuestion(source="db")))[H2].flows == []


@virtual
async def test_what_is_too_much_is_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_PAGES", 2)
    found = await asked(teller(200)[0], FlowQuestion())
    assert 0 < len(found[H2].flows) < 200
    assert found[H2].is_cut


@virtual
@pytest.mark.parametrize(("owner", "taken"), [(H2, 20), (H1, 0), (H3, 0)])
async def test_a_host_speaks_only_for_its_own_containers(owner: HostId, taken: int) -> None:
    """Links are suggested by what hosts say: none may have one suggested for the container of another."""
    asker, writer = AgentHost(), Writer(owner)
    for record in (host("its"), network(N1), WEB):
        asker.hear(writer.put(record))
    found = await asked(teller(20)[0], FlowQuestion(), asker)
    assert len(found[H2].flows) == taken
    assert found[H2].has_answered


LACKS = CountingTrouble("the kernel can't attach programs to devices", "take another kernel")


@virtual
async def test_another_host_says_why_it_counts_no_flows_and_what_helps() -> None:
    told_by, counted = teller(0)
    counted.trouble = LACKS
    assert (await asked(told_by, FlowQuestion()))[H2].trouble == LACKS


@virtual
async def test_a_container_whose_flows_are_not_counted_is_named() -> None:
    told_by, counted = teller(0)
    counted.port_troubles = {PORT: LACKS}
    assert told_by.trouble() == LACKS, "of all containers, so none is named"
    counted.ports[PORT + 1] = "nvother"
    await told_by.read()
    assert told_by.trouble() == CountingTrouble(f"{LACKS.cause} (of web1)", LACKS.cure)


@virtual
async def test_the_names_of_containers_that_are_gone_are_left_to_the_next_agent(tmp_path: Path) -> None:
    one, counted, notes = AgentHost(), Counted(1), tmp_path / "flow_names.json"
    own, other = Writer(H1), Writer(H2)
    db = endpoint(2, offset=3, name="db1", service="db")
    for record in (host("h1"), network(N1), AttachmentRecord(N1), WEB):
        one.hear(own.put(record))
    one.hear(other.put(db))
    one.live.set_row(local_row(WEB.endpoint_id, N1))
    earlier = FlowReader(one.live, counted, unasked, notes)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(earlier.run)
        await trio.sleep(1)
        counted.ports = {}
        one.live.drop_row(WEB.endpoint_id)
        one.hear(own.delete(WEB))
        one.hear(other.delete(db))
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    counted.address = IPv4Address(db.addresses[0])
    for text in (notes.read_text(), "[", '{"sources": [[1]], "departed": 5}'):
        notes.write_text(text)
        later = FlowReader(one.live, counted, unasked, notes)  # type: ignore[arg-type]
        (flow,) = (await later.read()).flows
        if "web1" in text:
            assert (flow.source.name, flow.source.is_gone) == ("web1", True)
            assert flow.departed == DepartedTarget("db1", "db")
        else:
            assert (flow.source.name, flow.departed) == ("port 7", None)
