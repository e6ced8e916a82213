"""What this host knows of its paths, as another host's agent is answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from netagent.control.present import Presenter, SightOf
from netagent.model.ids import HostId
from netagent.registry.view import RegistryView
from netagent.rpc.paths import KnownPath


def known_paths(view: RegistryView, sight: SightOf, hosts: Sequence[HostId]) -> list[KnownPath]:
    """Return what `members` would say here of each host; of one that is not known here: nothing."""
    present = Presenter(view, "")
    found = []
    for host_id in hosts:
        host = view.hosts.get(host_id)
        if host is None:
            found.append(KnownPath())
            continue
        shown = present.member(host, sight(host_id))
        rtt_s, loss_percent = shown["rtt_s"], shown["loss_percent"]
        found.append(
            KnownPath(
                shown["path"],
                None if rtt_s is None else round(rtt_s * 1e6),
                None if loss_percent is None else round(loss_percent * 10),
                shown["path_mtu_bytes"],
                shown.get("encrypted", False),
            )
        )
    return found
