"""By which addresses a host speaks, as the fabric sees it."""

from __future__ import annotations

import json

from lab.harness import Cluster
from netlab.programs import must

_COUNTED = """
table bridge watch
delete table bridge watch
table bridge watch {{
  set tunnels {{ type {type}; flags dynamic; }}
  set agents {{ type {type}; flags dynamic; }}
  chain look {{
    type filter hook prerouting priority -300;
    iifname {{ "{host}", "{host}-2" }} udp dport 4799 add @tunnels {{ {family} saddr }}
    iifname {{ "{host}", "{host}-2" }} th dport {{ 7956, 7957 }} add @agents {{ {family} saddr }}
  }}
}}
"""


def watch(app: Cluster, host: str, family: str = "ip") -> None:
    """From now on; what was seen before is forgotten. `family`: ip or ip6."""
    kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
    _in_fabric(app, "-f", "-", stdin=_COUNTED.format(host=host, family=family, type=kind))


def seen(app: Cluster) -> dict[str, list[str]]:
    """The outer addresses that tunnels and agents of the host came from."""
    listed = json.loads(_in_fabric(app, "-j", "list", "table", "bridge", "watch"))
    return {
        one["set"]["name"]: sorted(one["set"].get("elem", [])) for one in listed["nftables"] if "set" in one
    }


def _in_fabric(app: Cluster, *words: str, stdin: str = "") -> str:
    return must(["ip", "netns", "exec", f"{app.lab.folder.name}-fabric", "nft", *words], stdin=stdin)
