"""TCP between containers of two hosts that encrypt goes through the tunnel without VXLAN, large segments in one piece
(docs/design/0081-tcp-goes-past-vxlan.md).

Read `layout` (what such a packet looks like, and the tables), `programs` (what happens to a packet) and `path` (keeps
programs and tables). Imports `datapath.bpf` and `datapath.state`.
"""
