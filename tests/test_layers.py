"""Who may import whom, which files decide and which perform: the layers of ARCHITECTURE.md, held by reading the code.

A file *decides* (no clock, no socket, no trio, no chance of its own) unless PERFORMS names it. So a new file is one
that decides, until somebody writes down that it performs.

Imports under `if TYPE_CHECKING:` bring nothing at run time. They are counted apart, and only where a file must name
the type of what it is given by its owner.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = {"netagent": ROOT, "netgossip": ROOT / "gossip", "netdns": ROOT / "dns"}

PERFORMS = {
    # netgossip
    "netgossip.join.discovery",  # mDNS
    "netgossip.driver",  # sockets and the timer
    "netgossip.task_runner",
    "netgossip.send_buffer",
    "netgossip.join.driver",  # dials the inviter
    "netgossip.sockets",
    # netdns
    "netdns.batch",  # sockets
    "netdns.connection",
    "netdns.exchange",
    "netdns.server",
    "netdns.testing",  # an upstream server that misbehaves; a test's tool, but a server
    # the agent as a whole
    "netagent.agent",
    "netagent.config",  # reads files
    "netagent.memory",
    "netagent.slices",  # lets others run between two pieces of what a pure function does
    "netagent.log",
    "netagent.service",
    "netagent.state_dir",
    "netagent.daemon.systemd",
    # command line
    "netagent.cli.client_commands",
    "netagent.cli.doctor_command",  # asks whether this is root
    "netagent.cli.install_commands",
    "netagent.cli.main",
    "netagent.cli.notation",  # asks whether /run/netns/NAME exists, for a better answer
    "netagent.cli.render",  # asks for the terminal's width
    "netagent.install.installer",
    # API
    "netagent.control.api",
    "netagent.control.streaming",
    "netagent.control.client",
    "netagent.commands.lookup",  # lets others run while it makes a table
    "netagent.commands.ping",
    "netagent.control.server",
    "netagent.control.agent_service",  # the seam: its methods are awaited
    "netagent.commands.status",
    "netagent.control.watch",
    # other tools
    "netagent.integrations.cni.plugin",
    "netagent.integrations.cni.netns_check",
    "netagent.integrations.podman.command",
    "netagent.integrations.podman.watcher",
    "netagent.integrations.podman.netns_processes",
    "netagent.integrations.podman.integration",
    "netagent.integrations.podman.mirror",
    "netagent.integrations.podman.plugin",
    "netagent.integrations.idempotency",
    "netagent.integrations.shim",
    "netagent.daemon.runtimes",
    "netagent.integrations.shim_call",
    "netagent.integrations.container_targets",
    # what is wrong
    "netagent.doctor.facts.agent_ports",
    "netagent.cli.offline_doctor",
    "netagent.doctor.facts.resolver_query",
    "netagent.commands.examine",
    "netagent.commands.explain_facts",
    "netagent.doctor.facts.foreign_rules_reader",
    "netagent.doctor.facts.host_facts",
    "netagent.doctor.facts.name_servers",
    "netagent.doctor.facts.ping_probe",
    "netagent.doctor.facts.netns_inspect",
    # kernel
    "netagent.datapath.reconcile.apply",
    "netagent.datapath.endpoint.attach",
    "netagent.datapath.endpoint.veth_binding",
    "netagent.datapath.host.bpf",
    "netagent.datapath.endpoint.tcp_connections",
    "netagent.datapath.host.conntrack",
    "netagent.datapath.netlink.device",  # a codec, but it is pyroute2's
    "netagent.datapath.host.forwarding",
    "netagent.datapath.endpoint.guest_watch",
    "netagent.datapath.netlink.link",  # a codec, but for one draw: an index for a link to be made
    "netagent.datapath.host.port_owner",  # reads /proc/net
    "netagent.datapath.netlink.route_socket",
    "netagent.datapath.endpoint.netns",
    "netagent.datapath.reconcile.observe",
    "netagent.datapath.host.offload",
    "netagent.datapath.endpoint.veth_pair",
    "netagent.datapath.endpoint.wait_link_up",
    "netagent.datapath.reconcile.reconciler",
    "netagent.datapath.reconcile.schedule",
    "netagent.datapath.endpoint.link_delete",
    "netagent.datapath.host.sysctls",  # /proc/sys
    "netagent.datapath.reconcile.bridge_nf_bypass",
    "netagent.datapath.netlink.nftables",
    "netagent.datapath.endpoint.dns_redirect",
    "netagent.datapath.host.underlay",
    "netagent.datapath.host.underlay_watch",
    "netagent.firewall.driver",
    "netagent.firewall.source_nat",
    "netagent.firewall.guard",
    "netagent.probes.echo",
    # what is known, and who knows it
    "netagent.ipam.allocator",
    "netagent.ipam.space_requests",
    "netagent.ipam.grants",
    "netagent.ipam.allocations",
    "netagent.ipam.prefetch",
    "netagent.journal.write_behind",  # a lock: filled by the event loop, emptied by the writer's thread
    "netagent.journal.journal",
    "netagent.registry.state_store",
    "netagent.registry.publish",
    "netagent.journal.reader",
    "netagent.journal.writer",
    # names
    "netagent.resolver.capabilities",
    "netagent.resolver.channel",
    "netagent.resolver.daemonize",
    "netagent.resolver.launch",
    "netagent.resolver.process",
    "netagent.resolver.supervisor",
    "netagent.resolver.host_servers",  # reads resolv.conf
    # container runtimes
    "netagent.integrations.docker.docker_user_chain",
    "netagent.integrations.docker.netns_waiter",
    "netagent.integrations.docker.engine",
    "netagent.integrations.docker.watcher",
    "netagent.integrations.docker.integration",
    "netagent.integrations.docker.mirror",
    "netagent.integrations.docker.plugin",
    # a host's life in a cluster, and what users have done
    "netagent.rpc.handlers",
    "netagent.rpc.client",
    "netagent.eviction.cleanup",
    "netagent.daemon.cluster",
    "netagent.daemon.leave",
    "netagent.daemon.controllers",
    "netagent.membership.gossip",
    "netagent.daemon.host_kernel",
    "netagent.membership.event_intake",  # lets others run between two pieces
    "netagent.daemon.join",
    "netagent.daemon.journal_recovery",
    "netagent.daemon.peer_discovery",
    "netagent.membership.host_record",
    "netagent.membership.participation",
    "netagent.daemon.probing",
    "netagent.eviction.rejoin",
    "netagent.membership.remote_networks",
    "netagent.daemon.withdraw",
    "netagent.membership.seeds",
    "netagent.eviction.liveness_quorum",
    "netagent.projection.mac_announcer",
    "netagent.projection.controller",
    "netagent.projection.resolver_sockets",
    "netagent.endpoints.locks",  # locks
    "netagent.endpoints.drain",
    "netagent.endpoints.lifecycle",
    "netagent.endpoints.fencing",
    "netagent.eviction.evict",
    "netagent.endpoints.host_access",
    "netagent.endpoints.interfaces",
    "netagent.endpoints.garbage_collector",
    "netagent.endpoints.networks",
    "netagent.daemon.own_records",
    "netagent.endpoints.published_ports",  # looks who listens at a port
    "netagent.endpoints.resolv_conf",
    "netagent.endpoints.two_phase",
    "netagent.endpoints.context",
    "netagent.endpoints.targets",
    "netagent.endpoints.rollback",
    "netagent.eviction.auto_evict",
}

PERFORMING_MODULES = {
    "anyio", "asyncio", "ctypes", "fcntl", "hypercorn", "multiprocessing", "os", "pathlib", "pyroute2", "queue",
    "random", "secrets", "select", "selectors", "signal", "socket", "sqlite3", "subprocess", "threading", "time",
    "trio", "zeroconf",
}  # fmt: skip
PURE_NAMES = {
    "random": {"Random"},  # as the type of the generator that a machine is given
    "socket": {"AF_INET", "AF_INET6", "inet_ntop", "inet_pton"},  # numbers and spelling
    "pathlib": {"Path"},  # as a name; that a pure file opens nothing is held by its calls
}
FILE_CALLS = {
    "exists",
    "is_file",
    "iterdir",
    "open",
    "read_bytes",
    "read_text",
    "stat",
    "unlink",
    "write_text",
}

ANYWHERE = {"netagent.periodic"}
"""Arithmetic and nothing else: every room has something that looks again and again."""

# Who may import whom at run time. A name stands for itself and everything below; the longest that fits counts.
BELOW: Mapping[str, set[str]] = {
    "netagent.errors": set(),
    "netagent.log": set(),
    "netagent.model": set(),
    "netagent.config": {"netagent.config_values", "netagent.errors", "netagent.model"},
    "netagent.config_values": {"netagent.model"},
    "netagent.state_dir": {"netagent.errors", "netgossip.join.identity"},
    "netagent.daemon.systemd": {"netagent.errors"},
    "netagent.registry": {
        "netagent.errors", "netagent.model", "netagent.slices", "netgossip.types", "netgossip.join.identity",
    },
    "netagent.ipam": {"netagent.errors", "netagent.model", "netagent.registry"},
    "netagent.memory": set(),
    "netagent.periodic": set(),
    "netagent.slices": set(),
    "netagent.datapath": {"netagent.errors", "netagent.log", "netagent.model", "netagent.slices"},
    "netagent.firewall": {"netagent.errors"},
    "netagent.firewall.source_nat": {"netagent.datapath.netlink.nftables"},
    "netagent.firewall.driver": {
        "netagent.datapath.host.conntrack", "netagent.datapath.netlink.nftables", "netagent.errors", "netagent.firewall",
    },
    "netagent.probes": {"netagent.model"},
    "netagent.resolver": {"netagent.errors", "netagent.model", "netdns"},
    "netagent.resolver.process": {
        "netagent.datapath.endpoint.netns", "netagent.datapath.endpoint.dns_redirect", "netagent.model", "netagent.resolver", "netdns",
    },
    "netagent.resolver.supervisor": {
        "netagent.datapath.endpoint.dns_redirect", "netagent.errors", "netagent.model", "netagent.resolver",
    },
    "netagent.resolver.zone": {"netagent.resolver", "netagent.model", "netagent.slices", "netagent.registry.view"},
    "netagent.resolver.explain_name": {
        "netagent.resolver", "netagent.model", "netagent.slices", "netagent.registry.view", "netdns",
    },
    "netagent.projection": {
        "netagent.datapath", "netagent.errors", "netagent.firewall", "netagent.log", "netagent.model",
        "netagent.resolver.supervisor", "netagent.resolver.name_table", "netagent.slices", "netagent.registry",
        "netgossip.types",
    },
    "netagent.endpoints": {
        "netagent.datapath.endpoint.attach", "netagent.datapath.endpoint.tcp_connections", "netagent.datapath.reconcile.drift",
        "netagent.datapath.reconcile.desired",
        "netagent.datapath.endpoint.guest_watch", "netagent.datapath.host.port_owner", "netagent.datapath.endpoint.netns",
        "netagent.datapath.host.sysctls", "netagent.errors", "netagent.ipam", "netagent.log",
        "netagent.membership.participation", "netagent.model", "netagent.slices", "netagent.projection.datapath_input",
        "netagent.registry",
        "netgossip.types",
    },
    "netagent.membership": {
        "netagent.config", "netagent.config_values", "netagent.datapath", "netagent.errors", "netagent.log",
        "netagent.model", "netagent.probes", "netagent.registry", "netgossip",
    },
    "netagent.membership.remote_networks": {
        "netagent.model", "netagent.slices", "netagent.registry", "netgossip.types",
    },
    "netagent.membership.event_intake": {"netagent.membership.event_queue", "netagent.slices", "netgossip.types"},
    "netagent.daemon.cluster": {
        "netagent.config", "netagent.datapath", "netagent.errors", "netagent.ipam", "netagent.membership",
        "netagent.model", "netagent.projection.firewall_input", "netagent.registry", "netagent.state_dir",
        "netagent.endpoints", "netgossip",
    },
    "netagent.daemon.leave": {
        "netagent.ipam", "netagent.membership", "netagent.registry", "netagent.endpoints",
    },
    "netagent.daemon.controllers": {
        "netagent.datapath", "netagent.firewall", "netagent.daemon.host_kernel", "netagent.model",
        "netagent.resolver.supervisor", "netagent.resolver.zone", "netagent.slices", "netagent.projection",
        "netagent.registry", "netagent.state_dir", "netagent.endpoints.validation",
    },
    "netagent.membership.gossip": {
        "netagent.config", "netagent.errors", "netagent.membership", "netagent.model", "netagent.slices",
        "netagent.registry", "netagent.state_dir", "netgossip",
    },
    "netagent.daemon.host_kernel": {
        "netagent.datapath", "netagent.firewall", "netagent.projection.mac_announcer",
    },
    "netagent.daemon.probing": {
        "netagent.datapath", "netagent.membership", "netagent.model", "netagent.probes",
        "netagent.projection.datapath_input", "netagent.registry",
    },
    "netagent.integrations": {
        "netagent.config", "netagent.control", "netagent.datapath.endpoint.netns", "netagent.errors", "netagent.log",
        "netagent.model", "netagent.registry", "netagent.state_dir", "netagent.endpoints",
    },
    "netagent.integrations.docker.docker_user_chain": {"netagent.datapath.netlink.nftables"},
    "netagent.doctor": {
        "netagent.datapath", "netagent.errors", "netagent.model", "netagent.resolver", "netagent.projection.datapath_input",
        "netagent.firewall", "netagent.slices", "netagent.projection.firewall_input", "netagent.registry",
        "netagent.endpoints.validation", "netdns", "netgossip.types",
    },
    "netagent.cli.offline_doctor": {
        "netagent.config", "netagent.control", "netagent.datapath", "netagent.doctor", "netagent.errors",
        "netagent.membership.event_queue", "netagent.model", "netagent.slices", "netagent.registry",
    },
    "netagent.control": {
        "netagent.config_values", "netagent.datapath.host.uplink", "netagent.errors", "netagent.model",
        "netagent.resolver.explain_name", "netagent.slices", "netagent.probes.quality", "netagent.registry",
        "netagent.endpoints", "netdns.errors",
    },
    "netagent.commands.reasons": {"netagent.control", "netagent.doctor"},
    "netagent.commands.lookup": {
        "netagent.control", "netagent.doctor.facts.name_servers", "netagent.errors", "netagent.model",
        "netagent.resolver.explain_name", "netagent.slices", "netagent.registry", "netagent.endpoints", "netdns",
    },
    "netagent.commands.status": {
        "netagent.control", "netagent.doctor", "netagent.ipam.space", "netagent.model", "netagent.slices",
        "netagent.probes.quality", "netagent.registry",
    },
    "netagent.commands.ping": {
        "netagent.control", "netagent.doctor", "netagent.errors", "netagent.rpc.messages", "netagent.model",
        "netagent.probes.quality", "netagent.registry", "netagent.endpoints",
    },
    "netagent.commands.space_use": {
        "netagent.control", "netagent.ipam.space", "netagent.model", "netagent.registry",
    },
    "netagent.control.client": {"netagent.control.problem", "netagent.errors"},
    "netagent.control.problem": {"netagent.errors"},
    "netagent.integrations.shim": set(),  # runs without us
    "netagent.service": {
        "netagent.control", "netagent.doctor", "netagent.errors", "netagent.model", "netagent.slices",
        "netagent.registry", "netagent.endpoints", "netgossip.errors", "netgossip.join.invitation",
    },
    "netagent.agent": {
        "netagent.config", "netagent.control", "netagent.datapath", "netagent.doctor", "netagent.errors",
        "netagent.integrations", "netagent.log", "netagent.membership", "netagent.memory", "netagent.service",
        "netagent.state_dir", "netagent.daemon.systemd", "netagent.endpoints.drain", "netgossip",
    },
    "netagent.cli": {"netagent.control.client", "netagent.errors", "netagent.model.number"},
    "netagent.install": {"netagent.errors"},
    "netagent.cli.arguments": {"netagent.config"},
    "netagent.cli.doctor_command": {"netagent.cli", "netagent.cli.offline_doctor", "netagent.errors"},
    "netagent.cli.install_commands": {
        "netagent.cli", "netagent.errors", "netagent.install", "netagent.integrations.docker.docker_user_chain",
    },
    "netagent.cli.client_commands": {"netagent.agent", "netagent.cli", "netagent.control.client", "netagent.errors"},
}  # fmt: skip

ONLY_TYPES = {
    "netagent.service": {"netagent.agent", "netagent.daemon.cluster"},
    "netagent.cli.install_commands": {"netagent.install.files", "netagent.install.installer"},
    "netagent.commands.lookup": {"netagent.daemon.cluster"},
    "netagent.commands.ping": {"netagent.daemon.cluster"},
    "netagent.commands.status": {"netagent.agent", "netagent.daemon.cluster"},
    "netagent.commands.examine": {"netagent.agent", "netagent.daemon.cluster"},
    "netagent.commands.explain_facts": {"netagent.daemon.cluster"},
    "netagent.daemon.peer_discovery": {"netagent.agent"},
    "netgossip.testing_host": {"netgossip.testing"},
}

# Which outside package is known to which files.
KNOWS = {
    "pyroute2": {"netagent.datapath.netlink.device"},
    "sqlite3": {"netagent.journal.journal", "netagent.journal.reader", "netagent.journal.writer"},
    "hypercorn": {"netagent.control.server"},
    "starlette": {
        "netagent.control.api", "netagent.control.streaming", "netagent.control.server",
        "netagent.integrations.docker.plugin", "netagent.daemon.runtimes", "netagent.integrations.shim_call",
    },
    "h11": {"netagent.integrations.docker.engine"},
    "zeroconf": {"netgossip.join.discovery"},
    "shtab": {"netagent.cli.install_commands"},
    "immutables": {
        "netagent.datapath.reconcile.drift", "netagent.datapath.state", "netagent.ipam.allocation",
        "netagent.daemon.controllers", "netagent.resolver.zone", "netagent.registry.local_rows",
        "netagent.registry.derive", "netagent.registry.index", "netagent.registry.store", "netagent.registry.view",
    },
    "cryptography": {
        "netgossip.join.admission", "netgossip.records.frames", "netgossip.join.identity", "netgossip.codec.sealing",
    },
}  # fmt: skip

SWIM_PARTS = {"awareness", "broadcasts", "members", "probe", "suspicion"}
RECORD_PARTS = {"carriage", "dissemination", "exchange", "presence", "requests", "table"}
MEMBERSHIP_SIDE = SWIM_PARTS | {
    "absentees",
    "claims",
    "detector",
    "lateness",
    "moves",
    "outgoing",
    "parse",
    "redial",
    "rounds",
    "strangers",
    "streams",
}
MEMBERSHIP_SIDE |= {"swim", "wire"}
RECORD_SIDE = RECORD_PARTS | {
    "frame",
    "greeting",
    "merge",
    "reception",
    "record_log",
    "record_streams",
    "record_wire",
    "replication",
}


def files_of(package: str) -> dict[str, Path]:
    """The package's modules by name."""
    root = ROOTS[package]
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {name: path for package in ROOTS for name, path in files_of(package).items()}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def is_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node: ast.AST, *, types: bool, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements: those under TYPE_CHECKING only, or all the others; `lazy` ones inside functions if asked."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            if not types:
                yield child
        elif is_types_only(child):
            if types:
                yield from statements(child, types=False, lazy=lazy)
        elif lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(child, types=types, lazy=lazy)


@cache
def imports(module: str, *, types: bool = False, lazy: bool = True) -> frozenset[str]:
    """Modules, also outside ones, by full name; `from package import module` counts as the module."""
    found = set()
    for statement in statements(tree_of(module), types=types, lazy=lazy):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        assert statement.level == 0, f"{module}: relative import"
        base = statement.module or ""
        names = {f"{base}.{alias.name}" for alias in statement.names}
        submodules = names & MODULES.keys()
        found |= submodules
        if submodules != names:
            found.add(base)
    return frozenset(found)


def is_below(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def ours(module: str) -> bool:
    return module.partition(".")[0] in ROOTS


def rule_of(module: str) -> str:
    """The entry of BELOW for a module of netagent: the longest name that fits."""
    return max((name for name in BELOW if is_below(module, {name})), key=len, default="")


@pytest.mark.parametrize("module", sorted(m for m in MODULES if ours(m) and m.startswith("netagent.")))
def test_imports_go_downwards(module: str) -> None:
    rule = rule_of(module)
    assert rule, f"{module} is in no layer: add it to BELOW"
    room = ".".join(module.split(".")[:2])
    allowed = BELOW[rule] | ({room} if rule == room else set()) | ANYWHERE
    # `from netagent import __version__` brings the package itself, which holds nothing else.
    used = {name for name in imports(module) if ours(name)} - {"netagent"}
    assert {name for name in used if not is_below(name, allowed)} == set()


def test_types_of_owners_are_named_where_it_is_written_down() -> None:
    found = {m: {n for n in imports(m, types=True) if ours(n)} for m in MODULES}
    assert {module: names for module, names in found.items() if names} == ONLY_TYPES


@pytest.mark.parametrize("package", ["netgossip", "netdns"])
def test_the_libraries_know_nobody(package: str) -> None:
    for module in files_of(package):
        used = imports(module) | imports(module, types=True)
        assert {n for n in used if ours(n) and not is_below(n, {package})} == set(), module


def test_nobody_imports_in_a_circle() -> None:
    graph = {m: {n for n in imports(m, lazy=False) if n in MODULES} - {m} for m in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_command_line_starts_the_agent() -> None:
    assert {m for m in MODULES if "netagent.agent" in imports(m)} == {"netagent.cli.client_commands"}
    assert "netagent.agent" not in imports("netagent.cli.client_commands", lazy=False)


@pytest.mark.parametrize("package", sorted(KNOWS))
def test_an_outside_package_is_known_to_few(package: str) -> None:
    assert {m for m in MODULES if is_below_any(imports(m), package)} == KNOWS[package]


def is_below_any(names: frozenset[str], package: str) -> bool:
    return any(is_below(name, {package}) for name in names)


def test_membership_and_records_meet_in_the_node_only() -> None:
    inside = {m.removeprefix("netgossip."): imports(m) for m in files_of("netgossip")}
    for module, used in inside.items():
        names = {n.removeprefix("netgossip.") for n in used if n.startswith("netgossip.")}
        if names & MEMBERSHIP_SIDE and names & RECORD_SIDE:
            assert module == "node"
        for parts in (SWIM_PARTS, RECORD_PARTS):
            if module in parts:
                assert not names & parts, f"{module} imports a sibling"
        if module in MEMBERSHIP_SIDE:
            assert not names & RECORD_SIDE, module
        if module in RECORD_SIDE:
            assert not names & MEMBERSHIP_SIDE, module


def test_everything_that_performs_exists_and_performs() -> None:
    assert MODULES.keys() >= PERFORMS
    assert {module for module in PERFORMS if not list(performing(module))} == set()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - PERFORMS))
def test_what_decides_does_not_perform(module: str) -> None:
    assert list(performing(module)) == []


def performing(module: str) -> Iterator[str]:
    """What in the file is more than deciding, with its line."""
    for name in imports(module):
        root = name.partition(".")[0]
        if root in PERFORMING_MODULES and root not in PURE_NAMES:
            yield f"imports {name}"
    for node in ast.walk(tree_of(module)):
        for what in deeds(node, opens_files=touches_a_path(module)):
            yield f"line {getattr(node, 'lineno', 0)}: {what}"


def deeds(node: ast.AST, *, opens_files: bool) -> Iterator[str]:
    """What this one node does that a deciding file must not."""
    match node:
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncWith() | ast.AsyncFor():
            yield "awaits"
        case ast.Attribute(value=ast.Name(id=("dt" | "datetime")), attr=("datetime" | "now")):
            yield "reads the wall clock"
        case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr not in PURE_NAMES.get(name, {attr}):
            yield f"{name}.{attr}"
        case ast.ImportFrom(module=str(name), names=aliases):
            yield from (
                alias.name for alias in aliases if alias.name not in PURE_NAMES.get(name, {alias.name})
            )
        case ast.Call(func=ast.Name(id=("open" | "print" | "input") as name)):
            yield f"{name}()"
        case ast.Call(func=ast.Attribute(attr=name)) if opens_files and name in FILE_CALLS:
            yield f"{name}()"


def touches_a_path(module: str) -> bool:
    return "pathlib" in imports(module)


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
        {"trio", "pyroute2", "msgpack", "cryptography", "starlette", "hypercorn", "zeroconf"}
    )


def test_the_folders_of_the_libraries_are_no_packages() -> None:
    """A package that installs as `dns` would overwrite dnspython, and `gossip` is taken as well."""
    assert not (ROOT / "gossip" / "__init__.py").exists()
    assert not (ROOT / "dns" / "__init__.py").exists()
