"""What is missing in an answer about the cluster: a notice for each network whose endpoints are not known.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netagent.control.present import Presenter
from netagent.errors import FailedError
from netagent.interface import schema
from netagent.registry.cluster_overview import Gap, GapReason

MAX_NOTICES = 20
"""Networks that are named; of further ones the notice gives the number."""
_MOST_HOSTS = 5


def notices(present: Presenter, gaps: Sequence[Gap]) -> list[schema.Notice]:
    """Return the notices in the order of the networks' names."""
    shown = sorted(gaps, key=lambda gap: present.network_name(gap.network_id))
    found = [_notice(present, gap) for gap in shown[:MAX_NOTICES]]
    if len(shown) > MAX_NOTICES:
        message = f"{len(shown) - MAX_NOTICES} further networks are missing as well"
        found.append({"code": "not-known", "message": message, "cure": "name one with --network"})
    return found


def not_known(present: Presenter, gaps: Sequence[Gap], missing: str, thing: str) -> FailedError:
    """Return the error for something not found (`missing` says what) that may exist in a network of `gaps`."""
    first, *others = notices(present, gaps)
    more = f" (and {len(others)} further networks are not known)" if others else ""
    return FailedError(
        f"{missing}, but not all networks are known here: {first['message']}{more}",
        code="not-known",
        thing=thing,
        hint=first["cure"],
    )


def _notice(present: Presenter, gap: Gap) -> schema.Notice:
    network, hosts = present.network_name(gap.network_id), _hosts(map(present.host_name, gap.hosts))
    then = "what is shown of it may be outdated" if gap.is_old else "its endpoints are not known here"
    match gap.reason:
        case GapReason.SILENT:
            why = f"{hosts} did not answer"
            cure = "try again, and see `netagent members`; `--local` does not ask"
        case GapReason.AWAY:
            why = f"no agent of the hosts in it is alive ({hosts})"
            cure = "see `netagent members`, and start an agent there"
        case GapReason.MISSING:
            why = f"no other host in it answers ({hosts})"
            then = "their latest records of it are missing here"
            cure = "see `netagent members`, and start an agent there"
        case GapReason.NOT_ASKED:
            why = f"netagent did not ask {hosts}, because there are too many networks or records"
            cure = f"list it alone: --network {network}"
    return {"code": "not-known", "message": f"network {network}: {why}; {then}", "cure": cure}


def _hosts(names: Iterable[str]) -> str:
    every = sorted(names)
    more = len(every) - _MOST_HOSTS
    return ", ".join(every[:_MOST_HOSTS]) + (f" and {more} more" if more > 0 else "")
