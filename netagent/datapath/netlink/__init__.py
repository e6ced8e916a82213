"""Netlink: the socket under trio, and the encoding of messages.

Read `route_socket`, then `link`, `neighbour`, `route` (rtnetlink), `device` (the one file that uses pyroute2), and
`nftables`. Imports `datapath.state` and `model`.
"""
