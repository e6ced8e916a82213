"""What belongs to the host and not to one container: uplinks, sysctls, tracked connections.

Read `uplink` (the address at which other hosts reach this one), `underlay` and `underlay_watch` (the host's own
network, and its changes), `forwarding` and `sysctls`, `service_routes`, then `probe_device`, `offload`,
`conntrack`, `port_owner`. Imports `datapath.netlink`.
"""
