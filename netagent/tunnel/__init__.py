"""The encrypted tunnel of a host: one WireGuard device and its peers.

Read `keys`, `peer` (what is wanted of a peer, and what changes), `uapi` (wireguard-go's protocol), `wireguard_go`
(its process) and `device`, which callers use. It knows no records: others say who the peers are. Imports
`datapath.netlink`.
"""
