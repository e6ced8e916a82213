"""Which files decide and which perform, held by reading the code.

A file *decides* (no clock, no socket, no trio, no chance of its own) unless PERFORMS names it. So a new file is one
that decides, until it is added here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from source_tree import MODULES, imports, tree_of

PERFORMS = {
    # netgossip
    "netgossip.join.discovery",  # mDNS
    "netgossip.driver",  # sockets and the timer
    "netgossip.slice_runner",  # lets others run between two slices of what a pure function does
    "netgossip.join.driver",  # dials the inviter
    "netgossip.sockets",
    # netdns
    "netdns.batch",  # recvmmsg(2) and sendmmsg(2)
    "netdns.connection",
    "netdns.exchange",
    "netdns.server",
    "netdns.testing",  # an upstream server that misbehaves; a test's tool, but a server
    # the agent as a whole
    "netagent.commands.apply.export",
    "netagent.commands.apply.run",
    "netagent.commands.cluster",
    "netagent.commands.containers",
    "netagent.commands.doctor",
    "netagent.commands.feed",
    "netagent.commands.flows.listing",
    "netagent.commands.flows.suggest",
    "netagent.commands.inspect",
    "netagent.commands.lists",
    "netagent.commands.networks",
    "netagent.commands.presenters",
    "netagent.commands.published_services",
    "netagent.services.published",
    "netagent.daemon.agent",
    "netagent.membership.group_label_keeper",  # since when, for people
    "netagent.commands.ring_keys",  # waits for the others
    "netagent.commands.encryption",  # asks the others
    "netagent.keys.controller",
    "netagent.keys.ring_store",  # by this host's clock: since when it has a key
    "netagent.daemon.memory",
    "netagent.main",
    "netagent.config",  # reads files
    "netagent.log",
    "netagent.log_form",
    "netagent.events.channel",  # the log's handler, which knows the loop
    "netagent.events.keeper",
    "netagent.events.sources.view_watch",
    "netagent.commands.sight.events",
    "netagent.commands.sight.paths",
    "netagent.commands.sight.warning_watch",
    "netagent.control.audit",
    "netagent.periodic_task",
    "netagent.loop_passes",
    "netagent.state_dir",
    "netagent.daemon.systemd",
    # command line
    "netagent.cli.client_commands",
    "netagent.cli.add_command",
    "netagent.enrol.enrolment",
    "netagent.enrol.package",
    "netagent.enrol.ssh",
    "netagent.cli.config_commands",  # reads the environment
    "netagent.cli.doctor_command",  # asks whether this is root
    "netagent.cli.feed_command",
    "netagent.cli.file_commands",
    "netagent.cli.install_commands",
    "netagent.cli.report_command",
    "netagent.cli.top.command",
    "netagent.mcp.server",
    "netagent.cli.main",
    "netagent.interface.notation",  # asks whether /run/netns/NAME exists, for a better answer
    "netagent.cli.parser",  # asks for the terminal's width
    "netagent.cli.render",  # so does this
    "netagent.install.installer",
    # API
    "netagent.access.token_store",
    "netagent.commands.access.tokens",
    "netagent.control.idempotency",  # waits for the first of two requests
    "netagent.http.certificate",
    "netagent.http.gate",
    "netagent.control.api",
    "netagent.control.streaming",
    "netagent.control.client",
    "netagent.commands.handlers",  # asks other hosts where an endpoint is
    "netagent.commands.lookup",  # lets others run while it makes a table
    "netagent.commands.ping",
    "netagent.commands.services",
    "netagent.commands.service_facts",
    "netagent.control.asker",
    "netagent.integrations.podman.database",
    "netagent.integrations.systemd.watcher",
    "netagent.control.asgi",
    "netagent.control.server",
    "netagent.http.health_routes",
    "netagent.http.listener",
    "netagent.page.contents",
    "netagent.page.examination",
    "netagent.page.live_stream",
    "netagent.page.site",
    "netagent.projection.busy_ports",
    "netagent.commands.status",
    "netagent.metrics.collect",
    "netagent.metrics.routes",
    "netagent.openmetrics.text",
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
    "netagent.integrations.container_exec",
    "netagent.integrations.marked_processes",
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
    "netagent.doctor.facts.socket_tables",
    # whether the programs in containers work
    "netagent.checks.ask",
    "netagent.checks.runner",
    # kernel
    "netagent.datapath.reconcile.apply",
    "netagent.datapath.endpoint.attach",
    "netagent.datapath.endpoint.veth_binding",
    "netagent.datapath.bpf.system_call",
    "netagent.datapath.bpf.programs",
    "netagent.datapath.bpf.maps",
    "netagent.datapath.bpf.tcx",
    "netagent.datapath.bpf.clsact",
    "netagent.datapath.bpf.cgroup",
    "netagent.datapath.host.service_routes",
    "netagent.datapath.reconcile.host_service_routes",
    "netagent.datapath.sockets.lease",
    "netagent.datapath.sockets.cgroup_root",
    "netagent.datapath.sockets.adoption",
    "netagent.datapath.sockets.service_tables",
    "netagent.datapath.endpoint.tcp_connections",
    "netagent.datapath.host.conntrack",
    "netagent.datapath.netlink.device",  # a codec, but it is pyroute2's
    "netagent.datapath.host.forwarding",
    "netagent.datapath.endpoint.guest_watch",
    "netagent.datapath.netlink.link",  # a codec, but for one draw: an index for a link to be made
    "netagent.datapath.flows.counters",
    "netagent.datapath.direct.path",
    "netagent.flows.reader",
    "netagent.datapath.sockets.reset",
    "netagent.datapath.host.port_owner",  # reads /proc/net
    "netagent.datapath.netlink.route_socket",
    "netagent.datapath.endpoint.netns",
    "netagent.datapath.reconcile.observe",
    "netagent.datapath.host.offload",
    "netagent.datapath.endpoint.veth_pair",
    "netagent.datapath.reconcile.reconciler",
    "netagent.datapath.reconcile.schedule",
    "netagent.datapath.endpoint.link_delete",
    "netagent.datapath.host.sysctls",  # /proc/sys
    "netagent.datapath.reconcile.bridge_nf_bypass",
    "netagent.datapath.netlink.nftables",
    "netagent.datapath.endpoint.dns_redirect",
    "netagent.datapath.host.underlay",
    "netagent.tunnel.device",
    "netagent.tunnel.kernel",
    "netagent.tunnel.wireguard_go",
    "netagent.datapath.host.underlay_watch",
    "netagent.firewall.driver",
    "netagent.firewall.source_nat",
    "netagent.firewall.guard",
    "netagent.probes.echo",
    "netagent.external.additions",
    "netagent.external.runner",
    # what is known, and who knows it
    "netagent.ipam.allocator",
    "netagent.ipam.space_requests",
    "netagent.ipam.grants",
    "netagent.ipam.allocations",
    "netagent.ipam.prefetch",
    "netagent.ipam.service_offsets",
    "netagent.services.addresses",
    "netagent.services.address_keeper",
    "netagent.journal.write_behind",  # a lock: filled by the event loop, emptied by the writer's thread
    "netagent.journal.journal",
    "netagent.registry.state_store",
    "netagent.registry.publish",
    "netagent.journal.reader",
    "netagent.journal.writer",
    # names
    "netagent.resolver.system.broker",
    "netagent.resolver.system.capabilities",
    "netagent.resolver.system.confinement",
    "netagent.resolver.privileged",
    "netagent.resolver.channel",
    "netagent.resolver.feed_server",
    "netagent.resolver.system.daemonize",
    "netagent.resolver.system.launch",
    "netagent.resolver.process",
    "netagent.resolver.stand_in",
    "netagent.resolver.supervisor",
    "netagent.resolver.system.host_servers",  # reads resolv.conf
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
    "netagent.daemon.encryption",
    "netagent.daemon.tunnel_endpoints",
    "netagent.membership.gossip",
    "netagent.daemon.host_kernel",
    # lets others run between two pieces
    "netagent.daemon.join",
    "netagent.daemon.journal_recovery",
    "netagent.daemon.peer_discovery",
    "netagent.membership.host_record",
    "netagent.membership.participation",
    "netagent.daemon.probing",
    "netagent.eviction.rejoin",
    "netagent.membership.refusal",
    "netagent.membership.signed_members",
    "netagent.membership.remote_networks",
    "netagent.daemon.withdraw",
    "netagent.membership.seeds",
    "netagent.eviction.liveness_quorum",
    "netagent.projection.mac_announcer",
    "netagent.projection.controller",
    "netagent.projection.service_tables",
    "netagent.projection.service_members",
    "netagent.projection.resolver_sockets",
    "netagent.endpoints.drain",
    "netagent.endpoints.lifecycle",
    "netagent.endpoints.fencing",
    "netagent.eviction.evict",
    "netagent.endpoints.host_access",
    "netagent.endpoints.interfaces",
    "netagent.endpoints.garbage_collector",
    "netagent.endpoints.networks",
    "netagent.daemon.own_records",
    "netagent.endpoints.attach_times",
    "netagent.endpoints.claims",  # looks who listens at a port
    "netagent.endpoints.records",  # publishes
    "netagent.endpoints.removal",  # interfaces, records, journal
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
