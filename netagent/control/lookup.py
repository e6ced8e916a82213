"""`lookup NAME [TYPE] [--from ENDPOINT]`: the answer an endpoint would get, and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netagent.control import schema
from netagent.doctor.name_servers import LOOKUP_S, ServerAnswer, ask_servers, say_answer
from netagent.errors import InputError
from netagent.names.explain import FORWARDED, HOST_VIEW, TYPES, explain
from netagent.usecases.endpoint_rules import sandbox_of, sandboxes
from netagent.usecases.finding import local_endpoint_called
from netdns.errors import DnsError
from netdns.name import from_text

if TYPE_CHECKING:
    from netagent.membership.cluster import Cluster


def look_up(cluster: Cluster, name: str, rtype: str, from_endpoint: str) -> schema.Lookup:
    """Asks the source that the resolver process has, over the table of this moment. InputError, NoError."""
    if rtype not in TYPES:
        raise InputError(f"{rtype!r} can't be looked up", thing=rtype, hint="take one of " + ", ".join(TYPES))
    view, rows = cluster.live.view, cluster.live.rows
    asker = local_endpoint_called(cluster.live, from_endpoint) if from_endpoint else None
    sandbox_id = sandbox_of(asker) if asker else HOST_VIEW
    beside = [row for row in rows.values() if sandbox_of(row) == sandbox_id]
    internal = frozenset(n for n, network in view.networks.items() if network.record.internal)
    try:
        explained = explain(
            view,
            sandboxes(rows.values(), internal),
            domain=cluster.keys.domain,
            name=name,
            rtype=rtype,
            sandbox_id=sandbox_id,
            behind_runtime=any(row.behind_runtime for row in beside),
        )
    except DnsError as error:
        raise InputError(f"{name!r} is no domain name: {error}", thing=name, hint="correct it") from None
    return {
        "name": explained.name,
        "type": explained.rtype,
        "status": explained.status,
        "answers": [
            {"name": one.name, "type": one.rtype, "ttl_s": one.ttl_s, "data": one.data}
            for one in explained.records
        ],
        "asked_for": asker.endpoint_id if asker else "",
        "reason": explained.reason,
        "servers": [],
    }


async def answered(cluster: Cluster, name: str, rtype: str, from_endpoint: str) -> schema.Lookup:
    """As `look_up`, and a name outside the cluster is asked of the host's name servers. InputError, NoError."""
    found = look_up(cluster, name, rtype, from_endpoint)
    if found["status"] != FORWARDED:
        return found
    servers = cluster.following.supervisor.name_servers()
    answers = await ask_servers(servers, from_text(found["name"]), TYPES[found["type"]], LOOKUP_S)
    return _with_answers(found, answers)


def _with_answers(found: schema.Lookup, answers: Sequence[ServerAnswer]) -> schema.Lookup:
    """A forwarded look-up with what the host's name servers said: the first address that one of them gave."""
    best = next((one for one in answers if one.addresses), None)
    said = "; ".join(map(say_answer, answers)) or "the host has no name server"
    return {
        **found,
        "answers": [
            {"name": found["name"], "type": found["type"], "ttl_s": ttl_s, "data": address}
            for address, ttl_s in (best.addresses if best is not None else ())
        ],
        "reason": f"{found['reason']}; {said}",
        "servers": [
            {
                "server": one.server,
                "status": one.status,
                "after_s": None if one.after_s is None else round(one.after_s, 4),
                "addresses": [address for address, _ in one.addresses],
                "trouble": one.trouble,
            }
            for one in answers
        ],
    }
