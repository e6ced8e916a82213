"""The encrypted tunnel of a host: one WireGuard device and its peers.

Read `keys`, `peer` (what is wanted of a peer, and what changes), `endpoint_choice` (where a peer is looked for), then
of what encrypts: `genetlink` (the kernel's messages) and `kernel` (its device), `uapi` (wireguard-go's protocol) and
`wireguard_go` (its process); at last `device`, which callers use. It knows no records: others say who the peers are.
Imports `datapath.netlink`.
"""
