"""What is missing in flows, and on which hosts: of `flows`, `policy suggest` and `status`. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from netagent.control.present import Presenter
from netagent.datapath.flows.counters import CountingTrouble
from netagent.flows.reader import HostFlows
from netagent.interface import schema
from netagent.model.ids import HostId


def flow_notices(present: Presenter, by_host: Mapping[HostId, HostFlows]) -> list[schema.Notice]:
    """Return what is missing in flows, and on which hosts."""
    found: list[schema.Notice] = []
    names = {host_id: present.host_name(host_id) for host_id in by_host}
    silent = sorted(names[host_id] for host_id, one in by_host.items() if not one.has_answered)
    if silent:
        found.append(
            {
                "code": "flows-not-known",
                "message": f"flows of {_some(silent)} are not known: no answer, or a release without flows",
                "cure": "netagent members",
            }
        )
    for host_id, one in sorted(by_host.items(), key=lambda item: names[item[0]]):
        name = names[host_id]
        if one.trouble is not None:
            found.append(not_counted(name, one.trouble))
        if one.is_cut:
            found.append(
                {
                    "code": "flows-cut",
                    "message": f"{name} has more flows than fit into its answer",
                    "cure": f"type this command on {name}, or name a service by --from or --to",
                }
            )
        for source, openings in sorted(one.left_out.items()):
            who = f"{name} itself" if source == name else f"{source} on {name}"
            found.append(
                {
                    "code": "flows-left-out",
                    "message": f"{who} opened more flows than are counted one by one: "
                    f"{openings:,} of its openings are in no row",
                    # Another host says what it is called, and users copy the line into a shell.
                    "cure": f"netagent flows --from {shlex.quote(source)}",
                }
            )
    return found


def not_counted(host: str, trouble: CountingTrouble) -> schema.Notice:
    """Say why a host does not count all flows, and what helps."""
    return {
        "code": "flows-not-counted",
        "message": f"flows of {host} are not counted, or not all: {trouble.cause}",
        "cure": trouble.cure,
    }


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more hosts" if len(names) > 3 else "")
