"""What belongs to the host and not to one container: uplinks, kernel switches, programs, tracked connections.

Read `uplink` (which address others reach), `underlay` and `underlay_watch` (the host's own network, followed),
`forwarding` and `sysctls` (switches), `probe_device`, `offload`, `conntrack`, `bpf`, `port_owner`.
Imports `datapath.netlink`.
"""
