"""Netlink: the socket under trio, and messages to bytes and back.

Read `route_socket`, then `link`, `neighbour`, `route` (rtnetlink), `device` (the one file that knows pyroute2),
`nftables`. Imports `datapath.state` and `model`.
"""
