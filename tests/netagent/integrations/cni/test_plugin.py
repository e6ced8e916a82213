"""The plug-in over real use-cases; kernel, resolver and wire are pretended."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from fakes.agent_host import AgentHost, Namespaces, netns_of
from fakes.registry import N1, N2, host, network
from fakes.virtual import virtual

from netagent.errors import FailedError, RefusedError
from netagent.integrations.cni import netns_check
from netagent.integrations.cni.plugin import CniPlugin
from netagent.integrations.shim_call import Call
from netagent.journal.rows import Bound
from netagent.model.records import Health


class Runtime:
    """Calls the plug-in of one host."""

    def __init__(self, one: AgentHost, namespaces: Namespaces) -> None:
        self.host, self.namespaces = one, namespaces
        keys = SimpleNamespace(domain="mesh.internal")
        self.member: Any = SimpleNamespace(
            live=one.live, endpoints=one.endpoints, networks=one.networks, keys=keys
        )
        self.plugin = CniPlugin(self._membership)
        self.in_a_cluster = True

    def _membership(self) -> Any:
        if not self.in_a_cluster:
            raise RefusedError("this host belongs to no cluster", code="no-cluster", hint="start one")
        return self.member

    async def call(
        self,
        verb: str,
        container: str = "web",
        *,
        ifname: str = "eth0",
        version: str = "1.1.0",
        **fields: Any,
    ) -> Any:
        """The answer's JSON, None when there is none; an error's has a code."""
        configuration = {"cniVersion": version, "name": "app", "type": "netagent", **fields}
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": "" if verb == "DEL" else str(self.namespaces.folder / container),
        }
        answer = await self.plugin.answer(Call(("netagent",), variables, json.dumps(configuration).encode()))
        value = json.loads(answer.output) if answer.output else None
        assert (answer.exit_status != 0) == (value is not None and "code" in value)
        return value

    def origins(self) -> list[str]:
        return sorted(str(row.origin) for row in self.host.live.rows.values())


async def started(namespaces: Namespaces, *names: str) -> Runtime:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"), network(N2, "back", subnets=("10.2.0.0/24",)))
    one.steps.done.clear()
    namespaces.make(*names)
    return Runtime(one, namespaces)


def attachments(valid: list[dict[str, str]]) -> dict[str, Any]:
    return {"cni.dev/valid-attachments": valid}


@virtual
async def test_add_gives_a_result_and_the_same_again(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "web")
    first = await runtime.call("ADD", network="app", service="shop")
    assert [one["address"] for one in first["ips"]] == ["10.1.0.2/32", "fd00:1::2/64"]
    assert first["routes"] == [
        {"dst": "10.1.0.0/24"},
        {"dst": "fd00:1::/64"},
        {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
        {"dst": "::/0", "gw": "fd00:1::1"},
    ]
    assert first["dns"]["search"][:2] == ["app.mesh.internal", "mesh.internal"]
    (row,) = runtime.host.live.rows.values()
    assert (row.name, row.service, row.origin, row.target) == ("web", "shop", "cni:app/web/eth0", "cni:web")
    assert first["interfaces"][0]["name"] == f"nv{row.endpoint_id[:8]}"
    assert await runtime.call("ADD", network="app", service="shop") == first
    assert list(runtime.host.live.rows.values()) == [row]


@virtual
async def test_a_check_that_cannot_be_is_refused_and_leaves_nothing(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "web")
    for check, words in (
        ("exec:/bin/ready", "has no runtime that runs commands"),
        ("udp:5", "what to check"),
    ):
        said = await runtime.call("ADD", network="app", check=[check])
        assert words in said["msg"], said
    assert list(runtime.host.live.rows.values()) == []
    await runtime.call("ADD", network="app", check=["tcp:80"])
    (row,) = runtime.host.live.rows.values()
    assert runtime.host.live.view.endpoints[row.endpoint_id].record.health is Health.STARTING


@virtual
async def test_del_needs_nothing_and_may_be_repeated(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "web")
    await runtime.call("ADD")
    namespaces.remove("web")
    for _ in range(2):
        assert await runtime.call("DEL", network="no such", ipam={}) is None
        assert runtime.host.traces() == {}
    runtime.in_a_cluster = False
    assert await runtime.call("DEL") is None


@virtual
async def test_a_container_made_anew_under_its_id_is_added_anew(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "web")
    await runtime.call("ADD")
    (before,) = runtime.host.live.rows
    namespaces.replace("web")
    assert "ips" in await runtime.call("ADD")
    (after,) = runtime.host.live.rows
    assert after != before
    assert runtime.origins() == ["cni:app/web/eth0"]


@virtual
async def test_an_endpoint_that_is_half_done_is_made_anew(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "web")
    await runtime.call("ADD")
    (before,) = runtime.host.live.rows.values()
    runtime.host.live.set_row(replace(before, stage=Bound(netns_of(before), before.ifname)))
    assert "ips" in await runtime.call("ADD")
    (after,) = runtime.host.live.rows.values()
    assert after.endpoint_id != before.endpoint_id
    assert after.is_published


@virtual
async def test_the_same_container_in_another_network_is_made_anew(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "web")
    await runtime.call("ADD")
    assert "ips" in await runtime.call("ADD", network="back")
    (row,) = runtime.host.live.rows.values()
    assert row.network_id == N2


@virtual
async def test_a_name_that_is_taken_keeps_no_container_from_starting(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "a", "b")
    await runtime.call("ADD", "a", args={"cni": {"name": "web"}})
    second = await runtime.call("ADD", "b", args={"cni": {"name": "web"}})
    one, other = runtime.host.live.rows.values()
    assert (one.name, other.name, other.service) == ("web", f"web-{other.endpoint_id[:4]}", "web")
    assert await runtime.call("ADD", "b", args={"cni": {"name": "web"}}) == second
    assert len(runtime.host.live.rows) == 2


@pytest.mark.parametrize("is_gone", [False, True], ids=["namespace", "gone"])
@virtual
async def test_del_withdraws_the_names_on_all_hosts_before_it_touches_the_interface(
    namespaces: Namespaces, is_gone: bool
) -> None:
    runtime = await started(namespaces, "web")
    await runtime.call("ADD", "web")
    if is_gone:
        namespaces.remove("web")
    runtime.host.steps.done.clear()
    assert await runtime.call("DEL", "web") is None
    names = [] if is_gone else ["journal", "hidden"]
    assert runtime.host.steps.done == [*names, "journal", "followed", "silence", "unbind", "journal"]


@virtual
async def test_gc_takes_what_the_runtime_does_not_know_and_leaves_others(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "a", "b", "c", "other")
    for name in ("a", "b", "c"):
        await runtime.call("ADD", name)
    await runtime.call("ADD", "other", name="back")
    await runtime.call("ADD", "a", name="app2", network="back", ifname="net1")
    valid = [{"containerID": "b", "ifname": "eth0"}]
    assert await runtime.call("GC", **attachments(valid)) is None
    assert runtime.origins() == ["cni:app/b/eth0", "cni:app2/a/net1", "cni:back/other/eth0"]
    assert await runtime.call("GC", **attachments([])) is None
    assert runtime.origins() == ["cni:app2/a/net1", "cni:back/other/eth0"]
    runtime.in_a_cluster = False
    assert await runtime.call("GC", **attachments([])) is None


@virtual
async def test_one_that_fails_does_not_keep_gc_from_the_others(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await started(namespaces, "a", "b")
    for name in ("a", "b"):
        await runtime.call("ADD", name)
    detach = runtime.host.endpoints.detach_origin

    async def failing(origin: str, *, may_be_in_use: bool) -> Any:
        if origin == "cni:app/a/eth0":
            raise FailedError("the kernel says no")
        return await detach(origin, may_be_in_use=may_be_in_use)

    monkeypatch.setattr(runtime.host.endpoints, "detach_origin", failing)
    answer = await runtime.call("GC", **attachments([]))
    assert (answer["code"], answer["msg"]) == (11, "netagent: the kernel says no")
    assert runtime.origins() == ["cni:app/a/eth0"]


@virtual
async def test_check_looks_at_the_record_the_namespace_and_the_interface(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await started(namespaces, "web")
    seen = []
    missing = ""

    async def missing_in(netns_fd: int, ifname: str, addresses: object) -> str:
        await trio.lowlevel.checkpoint()
        seen.append((ifname, addresses))
        return missing

    monkeypatch.setattr(netns_check, "missing_in", missing_in)
    result = await runtime.call("ADD")
    assert await runtime.call("CHECK", prevResult=result) is None
    assert seen == [("eth0", ("10.1.0.2", "fd00:1::2"))]
    missing = "the interface eth0"
    answer = await runtime.call("CHECK", prevResult=result)
    assert answer["code"] == 100
    assert "the interface eth0 is missing in" in answer["msg"]
    assert "prevResult does not name" in (await runtime.call("CHECK", prevResult={"ips": []}))["msg"]
    namespaces.replace("web")
    assert "not the namespace of the ADD" in (await runtime.call("CHECK", prevResult=result))["msg"]
    await runtime.call("DEL")
    assert (await runtime.call("CHECK", prevResult=result))["code"] == 3


@virtual
async def test_what_cannot_be_now_may_be_tried_again(namespaces: Namespaces) -> None:
    runtime = await started(namespaces, "web", "web2")
    answer = await runtime.call("ADD", network="nowhere")
    assert (answer["code"], answer["msg"]) == (11, "netagent: there is no network 'nowhere'")
    assert "network create" in answer["details"]
    assert (await runtime.call("STATUS", network="nowhere"))["code"] == 50
    assert await runtime.call("STATUS") is None
    assert (await runtime.call("ADD", "gone"))["code"] == 3
    runtime.in_a_cluster = False
    assert (await runtime.call("ADD"))["code"] == 11
    assert (await runtime.call("CHECK", prevResult={"ips": []}))["code"] == 11
    assert (await runtime.call("STATUS"))["code"] == 50
    assert (await runtime.call("VERSION"))["supportedVersions"]
    assert runtime.host.traces() == {}


@virtual
async def test_an_error_in_a_group_is_that_error_and_others_are_not_hidden(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await started(namespaces, "web")
    errors: list[Exception] = [FailedError("first")]

    async def failing(*_: object, **__: object) -> Any:
        raise ExceptionGroup("several", errors)

    monkeypatch.setattr(runtime.host.endpoints, "attach", failing)
    assert (await runtime.call("ADD"))["msg"] == "netagent: first"
    errors.append(ValueError())
    with pytest.raises(ExceptionGroup):
        await runtime.call("ADD")
