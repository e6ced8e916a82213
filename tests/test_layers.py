"""Which folder may import which, held by reading the code. Imports under TYPE_CHECKING count like all others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest
from source_tree import MODULES, ROOT, folder_of, imports, is_below, ours

# What every folder of netagent may use: errors, log lines and which of them are events, values, periodic tasks, and
# the one form of long work, which is in netgossip because its machines use it as well.
EVERYWHERE = {
    "netagent.errors", "netagent.events", "netagent.log", "netagent.log_form", "netagent.loop_passes",
    "netagent.model", "netagent.periodic",
    "netagent.periodic_task", "netgossip.histogram", "netgossip.slice_runner", "netgossip.slices",
}  # fmt: skip

BASE = EVERYWHERE | {"netagent.config_values"}

# Folder or module -> what it may import beside itself and EVERYWHERE. A name stands for all below it, and the longest
# name that fits a module counts. In the order in which the folders build on each other.
MAY_IMPORT: Mapping[str, set[str]] = {
    "netagent.model": set(),
    "netagent.config": {"netagent.config_values"},
    "netagent.state_dir": {"netgossip.join.identity"},
    "netagent.events": set(),
    "netagent.events.sources": {"netagent.registry"},
    "netagent.journal": {"netgossip.types"},
    "netagent.registry": {
        "netagent.feeds.host_rule", "netagent.journal", "netgossip.errors", "netgossip.join.identity",
        "netgossip.records.replication", "netgossip.types",
    },
    "netagent.keys": {"netagent.registry", "netagent.state_dir", "netgossip"},
    "netagent.external": {"netagent.checks", "netagent.registry", "netgossip.deadlines", "netgossip.types"},
    "netagent.external.view": {"netagent.registry", "netgossip.types"},
    "netagent.ipam": {"netagent.journal", "netagent.registry"},
    "netagent.datapath": set(),
    "netagent.datapath.netlink": {"netagent.datapath.state"},
    "netagent.datapath.host": {"netagent.datapath.netlink", "netagent.datapath.state"},
    "netagent.datapath.bpf": set(),
    "netagent.datapath.reconcile": {
        "netagent.datapath.bpf", "netagent.datapath.host", "netagent.datapath.netlink", "netagent.datapath.state",
    },
    "netagent.datapath.sockets": {
        "netagent.datapath.bpf", "netagent.datapath.endpoint.netns", "netagent.datapath.netlink",
        "netagent.datapath.reconcile.drift",
    },
    "netagent.datapath.flows": {
        "netagent.datapath.bpf", "netagent.datapath.reconcile.drift",
    },
    "netagent.datapath.direct": {
        "netagent.datapath.bpf", "netagent.datapath.flows.layout", "netagent.datapath.state",
    },
    "netagent.datapath.endpoint": {"netagent.datapath"},
    "netagent.balancing": {
        "netagent.datapath.sockets.layout", "netagent.external.view", "netagent.registry", "netgossip.deadlines",
    },
    "netagent.firewall": {"netagent.datapath.host.conntrack", "netagent.datapath.netlink.nftables"},
    "netagent.tunnel": {"netagent.datapath.netlink", "netagent.datapath.state"},
    "netagent.flows": {"netagent.datapath.flows", "netagent.endpoints.find", "netagent.registry"},
    "netagent.feeds": set(),
    "netagent.probes": {"netgossip.deadlines"},
    "netagent.openmetrics": set(),
    "netagent.resolver": {
        "netagent.datapath.endpoint", "netagent.feeds", "netagent.openmetrics", "netagent.resolver.system", "netdns",
    },
    "netagent.resolver.system": set(),
    "netagent.resolver.zone": {"netagent.external.view", "netagent.registry", "netagent.resolver"},
    "netagent.resolver.feed_entry": {"netagent.feeds", "netagent.registry", "netagent.resolver"},
    "netagent.resolver.explain_name": {
        "netagent.external.view", "netagent.registry", "netagent.resolver", "netdns",
    },
    "netagent.projection": {
        "netagent.balancing", "netagent.datapath", "netagent.firewall", "netagent.journal", "netagent.registry",
        "netagent.resolver", "netgossip.types",
    },
    "netagent.rpc": {"netagent.probes", "netagent.registry", "netgossip"},
    "netagent.membership": {
        "netagent.config", "netagent.config_values", "netagent.datapath.host", "netagent.journal",
        "netagent.keys", "netagent.registry", "netagent.rpc", "netagent.state_dir", "netgossip",
    },
    "netagent.endpoints": {
        "netagent.checks.state", "netagent.datapath", "netagent.external.view", "netagent.feeds.table",
        "netagent.ipam", "netagent.journal", "netagent.membership.participation", "netagent.projection",
        "netagent.registry", "netgossip.records.replication", "netgossip.types",
    },
    "netagent.services": {
        "netagent.endpoints.claims", "netagent.endpoints.find", "netagent.endpoints.network_defaults",
        "netagent.external.view", "netagent.ipam", "netagent.journal", "netagent.membership.participation",
        "netagent.registry", "netgossip.types",
    },
    "netagent.checks": {
        "netagent.datapath.endpoint.netns", "netagent.journal", "netagent.registry", "netgossip.deadlines",
        "netgossip.slices",
    },
    "netagent.eviction": {
        "netagent.external.view", "netagent.ipam", "netagent.journal", "netagent.probes", "netagent.registry",
        "netagent.rpc", "netgossip.membership.swim", "netgossip.records.replication", "netgossip.types",
    },
    "netagent.doctor": {
        "netagent.balancing", "netagent.datapath", "netagent.endpoints.records",
        "netagent.endpoints.validation", "netagent.external.view", "netagent.feeds", "netagent.firewall",
        "netagent.journal",
        "netagent.probes.schedule", "netagent.projection", "netagent.registry", "netagent.resolver", "netdns",
        "netgossip.types",
    },
    "netagent.interface": set(),
    "netagent.access": {"netagent.interface", "netagent.state_dir"},
    "netagent.control": {
        "netagent.access", "netagent.balancing",
        "netagent.checks.spec", "netagent.config_values", "netagent.datapath.host.uplink",
        "netagent.endpoints", "netagent.external", "netagent.feeds.encoding", "netagent.feeds.host_rule",
        "netagent.interface", "netagent.journal", "netagent.probes", "netagent.registry",
    },
    "netagent.control.client": {"netagent.control.problem", "netagent.interface"},
    "netagent.http": {
        "netagent.access", "netagent.control.asgi", "netagent.control.streaming", "netagent.registry",
        "netagent.state_dir",
    },
    "netagent.page": {
        "netagent.access", "netagent.control", "netagent.events.kinds", "netagent.interface", "netagent.registry",
        "netagent.rpc.paths",
    },
    "netagent.control.problem": set(),
    "netagent.integrations": {
        "netagent.checks", "netagent.config", "netagent.control", "netagent.datapath.endpoint.netns",
        "netagent.datapath.netlink.nftables", "netagent.endpoints", "netagent.journal", "netagent.registry",
        "netagent.state_dir",
    },
    "netagent.integrations.shim": set(),  # runs without the rest of netagent
    "netagent.daemon": {
        "netagent.access",
        "netagent.checks", "netagent.config", "netagent.control", "netagent.datapath", "netagent.doctor.checks",
        "netagent.doctor.facts", "netagent.endpoints", "netagent.eviction", "netagent.external",
        "netagent.firewall", "netagent.flows", "netagent.http",
        "netagent.integrations", "netagent.ipam", "netagent.journal", "netagent.keys", "netagent.membership",
        "netagent.page", "netagent.probes", "netagent.projection", "netagent.registry", "netagent.resolver",
        "netagent.rpc", "netagent.services", "netagent.state_dir", "netagent.tunnel",
        "netdns", "netgossip",
    },
    "netagent.commands": {
        "netagent.balancing", "netagent.checks", "netagent.control", "netagent.daemon", "netagent.datapath",
        "netagent.doctor", "netagent.endpoints", "netagent.external", "netagent.feeds", "netagent.firewall",
        "netagent.flows", "netagent.interface", "netagent.ipam", "netagent.journal", "netagent.keys", "netagent.page",
        "netagent.probes",
        "netagent.projection", "netagent.registry", "netagent.resolver", "netagent.rpc", "netagent.tunnel.peer",
        "netdns", "netgossip",
    },
    "netagent.commands.access": {
        "netagent.access", "netagent.commands.handlers", "netagent.commands.status", "netagent.control",
        "netagent.daemon", "netagent.endpoints", "netagent.interface", "netagent.journal",
        "netagent.registry",
    },
    "netagent.commands.apply": {
        "netagent.access.tokens", "netagent.commands", "netagent.control", "netagent.daemon", "netagent.endpoints",
        "netagent.external", "netagent.interface", "netagent.registry", "netagent.services", "netgossip.types",
    },
    "netagent.commands.notices": {
        "netagent.balancing.backends", "netagent.checks.all_failing", "netagent.control.present",
        "netagent.datapath.flows", "netagent.flows", "netagent.interface", "netagent.journal.rows", "netagent.probes",
        "netagent.registry", "netagent.resolver.protocol", "netagent.resolver.system.layer",
    },
    "netagent.metrics": {
        "netagent.daemon", "netagent.datapath.reconcile.reconciler", "netagent.endpoints.attach_times",
        "netagent.firewall.guard", "netagent.ipam.space", "netagent.probes.quality", "netagent.registry",
        "netagent.openmetrics", "netagent.tunnel.peer", "netgossip.driver", "netgossip.types",
    },
    "netagent.main": {
        "netagent.commands", "netagent.config", "netagent.control.api", "netagent.daemon", "netagent.metrics",
        "netagent.page",
    },
    "netagent.install": set(),
    "netagent.cli": {"netagent.control.client", "netagent.interface"},
    "netagent.cli.grammar": {"netagent.cli", "netagent.config", "netagent.interface"},
    "netagent.cli.client_commands": {
        "netagent.cli", "netagent.control.client", "netagent.interface", "netagent.main",
    },
    "netagent.enrol": {"netagent.control.client", "netagent.interface"},
    "netagent.cli.add_command": {"netagent.cli", "netagent.enrol", "netagent.interface"},
    "netagent.cli.config_commands": {"netagent.cli", "netagent.config", "netagent.interface"},
    "netagent.mcp": {"netagent.control.client", "netagent.interface"},
    "netagent.cli.mcp_command": {"netagent.cli", "netagent.interface", "netagent.mcp"},
    "netagent.cli.feed_command": {"netagent.cli", "netagent.feeds.encoding", "netagent.interface"},
    # The forms of a file's tables, by the declarations: all flaws at once, and where they are.
    "netagent.cli.file_commands": {
        "netagent.cli", "netagent.control.client", "netagent.control.conversion", "netagent.interface",
    },
    "netagent.cli.top.command": {"netagent.cli", "netagent.control.client", "netagent.interface"},
    "netagent.cli.report_command": {
        "netagent.checks.spec",
        "netagent.cli",
        "netagent.config",
        "netagent.control.client",
        "netagent.interface",
        "netagent.model.ids",
    },
    "netagent.cli.install_commands": {
        "netagent.cli", "netagent.install", "netagent.integrations.docker.docker_user_chain", "netagent.interface",
    },
    "netagent.cli.offline_doctor": {
        "netagent.commands", "netagent.config", "netagent.control", "netagent.datapath", "netagent.doctor",
        "netagent.interface", "netagent.journal", "netagent.membership.event_queue",
        "netagent.projection.service_ranges", "netagent.registry",
    },
    "netgossip": {"netgossip"},
    "netgossip.codec": {"netgossip.errors", "netgossip.slices", "netgossip.types"},
    "netgossip.join": {"netgossip.codec", "netgossip.errors", "netgossip.types"},
    "netgossip.membership": {
        "netgossip.codec", "netgossip.config", "netgossip.deadlines", "netgossip.errors", "netgossip.join.identity",
        "netgossip.membership.swim", "netgossip.slices", "netgossip.stream_slots", "netgossip.types",
    },
    "netgossip.records": {
        "netgossip.codec.sealing", "netgossip.config", "netgossip.deadlines", "netgossip.errors",
        "netgossip.histogram",
        "netgossip.join", "netgossip.slices", "netgossip.stream_slots", "netgossip.types",
    },
    "netdns": {"netdns"},
}  # fmt: skip

# Which outside package is known to which files.
KNOWS = {
    "pyroute2": {"netagent.datapath.netlink.device"},
    "sqlite3": {
        "netagent.integrations.podman.database",
        "netagent.journal.journal",
        "netagent.journal.reader",
        "netagent.journal.writer",
    },
    "hypercorn": {"netagent.control.asgi"},
    "starlette": {
        "netagent.control.api", "netagent.control.asgi", "netagent.control.server", "netagent.control.streaming",
        "netagent.daemon.agent", "netagent.daemon.runtimes",
        "netagent.http.gate", "netagent.http.health_routes", "netagent.http.listener",
        "netagent.integrations.docker.plugin", "netagent.integrations.shim_call",
        "netagent.metrics.routes", "netagent.page.site",
    },
    "h11": {"netagent.feeds.request", "netagent.integrations.docker.engine"},
    "prometheus_client": {
        "netagent.metrics.cluster_families", "netagent.metrics.collect", "netagent.metrics.gossip_families",
        "netagent.metrics.host_families", "netagent.openmetrics.away", "netagent.openmetrics.dns_families",
        "netagent.openmetrics.family", "netagent.openmetrics.process_families", "netagent.openmetrics.text",
    },
    "zeroconf": {"netgossip.join.discovery"},
    "msgspec": {"netagent.control.conversion", "netagent.control.openapi"},
    "mcp": {"netagent.mcp.server"},
    "shtab": {"netagent.cli.completion"},
    "immutables": {
        "netagent.daemon.controllers", "netagent.datapath.reconcile.drift", "netagent.datapath.state",
        "netagent.doctor.checks.expected_objects",
        "netagent.events.sources.view_changes",
        "netagent.ipam.allocation", "netagent.registry.derive", "netagent.model.group_labels",
        "netagent.registry.local_rows", "netagent.registry.store", "netagent.registry.view", "netagent.resolver.zone",
    },
    "cryptography": {
        "netagent.http.certificate", "netagent.keys.sealing", "netagent.tunnel.keys",
        "netgossip.codec.sealing", "netgossip.join.admission", "netgossip.join.conversation_keys",
        "netgossip.join.identity",
        "netgossip.join.readmission",
        "netgossip.records.frames", "netgossip.records.sessions",
    },
}  # fmt: skip


# Protocol classes that cut a circle of imports, or have several implementations in the product.
PROTOCOLS = {
    "AgentService",  # the API is below the commands that answer it
    "RecordSource",  # the extension point of a library that knows no application
    "Steppable",  # a gossip node, and the agent's queue of its events
}


def rule_of(module: str) -> str:
    """The entry of MAY_IMPORT for a module: the longest name that fits."""
    return max((name for name in MAY_IMPORT if is_below(module, {name})), key=len, default="")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_folder_imports_what_it_may(module: str) -> None:
    if module == "netagent":
        return
    rule = rule_of(module)
    assert rule or module in EVERYWHERE | {"netagent.config_values"}, (
        f"{module} is in no folder: add it to MAY_IMPORT"
    )
    allowed = MAY_IMPORT.get(rule, set()) | {rule}
    if module.startswith("netagent.") and rule != "netagent.integrations.shim":
        allowed |= {"netagent.model"} if rule == "netagent.model" else EVERYWHERE
    # `from netagent import __version__` brings the package itself, which holds nothing else.
    used = {name for name in imports(module) if ours(name)} - {"netagent"}
    assert {name for name in used if not is_below(name, allowed)} == set()


def no_circle(graph: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_files_import_each_other_in_a_circle() -> None:
    no_circle({m: {n for n in imports(m) if n in MODULES} - {m} for m in MODULES})


def test_no_folders_import_each_other_in_a_circle() -> None:
    """The modules at the top of a package are nodes of their own; they are what folders have in common."""

    def node(module: str) -> str:
        folder = folder_of(module)
        return module if "." not in folder else folder

    graph: dict[str, set[str]] = {}
    for module in MODULES:
        used = {node(n) for n in imports(module) if n in MODULES}
        graph.setdefault(node(module), set()).update(used - {node(module)})
    no_circle(graph)


@pytest.mark.parametrize("folder", sorted({folder_of(module) for module in MODULES} - {"netagent", "netdns"}))
def test_a_folder_says_what_it_is_for_and_is_small(folder: str) -> None:
    text = MODULES[folder].read_text(encoding="utf-8")
    assert text.startswith('"""')
    members = {m for m in MODULES if folder_of(m) == folder and m != folder}
    assert len(members) <= 20
    if len(members) > 2:
        assert "Read " in text, f"{folder}/__init__.py does not say in which order to read it"


def test_only_the_command_line_starts_the_agent() -> None:
    assert {m for m in MODULES if "netagent.main" in imports(m)} == {"netagent.cli.client_commands"}
    assert "netagent.main" not in imports("netagent.cli.client_commands", lazy=False)


@pytest.mark.parametrize("package", sorted(KNOWS))
def test_an_outside_package_is_known_to_few(package: str) -> None:
    assert {m for m in MODULES if any(is_below(n, {package}) for n in imports(m))} == KNOWS[package]


def test_a_class_with_one_implementation_needs_no_protocol() -> None:
    found = {
        name for m in MODULES for name in re.findall(r"class (\w+)\(.*\bProtocol\)", MODULES[m].read_text())
    }
    assert found <= PROTOCOLS


def test_parts_of_a_machine_do_not_know_each_other() -> None:
    """`swim` and `replication` put them together."""
    for folder, parts in (
        ("netgossip.membership", {"awareness", "broadcasts", "members", "probe", "suspicion"}),
        (
            "netgossip.records",
            {"anti_entropy", "dissemination", "peers", "requests", "table", "transport"},
        ),
    ):
        names = {f"{folder}.{part}" for part in parts}
        for name in names:
            assert not imports(name) & (names - {name}), f"{name} imports a sibling"


def test_the_command_line_path_stays_light() -> None:
    """What is imported before the agent has been asked, followed through our own files."""
    seen, heavy = {"netagent.cli.main"}, set()
    queue = ["netagent.cli.main"]
    while queue:
        for name in imports(queue.pop(), lazy=False):
            if name in MODULES and name not in seen:
                seen.add(name)
                queue.append(name)
            elif not ours(name):
                heavy.add(name.partition(".")[0])
    assert heavy.isdisjoint(
        {"trio", "pyroute2", "msgpack", "msgspec", "cryptography", "starlette", "hypercorn", "zeroconf"}
    )


def test_the_folders_of_the_libraries_are_no_packages() -> None:
    """A package that installs as `dns` would overwrite dnspython, and `gossip` is taken as well."""
    assert not (ROOT / "gossip" / "__init__.py").exists()
    assert not (ROOT / "dns" / "__init__.py").exists()
