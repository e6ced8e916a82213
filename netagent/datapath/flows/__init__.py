"""Flows: small programs at the ports of containers count in the kernel what they open.

Nothing is counted for packets of connections that are open, and nothing is sent anywhere: who wants to know reads the
counts (docs/design/0050-flows-are-counted-at-the-port.md).

Read `layout` (the tables), `programs` (what happens to a packet), and `counters` (keeps the programs at the ports,
and reads). Imports `datapath.bpf` and `datapath.reconcile.drift`.
"""
