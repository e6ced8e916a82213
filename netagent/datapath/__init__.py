"""The kernel's state as a function of the records: what should be there, what is there, and the operations between.

Read `state` (the data model of both), then the folders in this order: `netlink` (messages to bytes, the socket),
`bpf` (small programs in the kernel), `host` (uplinks, sysctls: what belongs to the host), `reconcile` (desired
against observed, and the loop), `sockets` (service addresses), `endpoint` (one container's interface). Each imports
only those before it, `state`, and `model`.
"""
