"""Kernel state as a function of the records: what should be there, what is, and the operations between.

Read `state` (the words for both), then the folders in this order: `netlink` (messages to bytes, the socket), `host`
(what belongs to the host: uplinks, switches, programs), `reconcile` (desired against observed, and the loop),
`endpoint` (one container's interface). Each imports only those before it, `state`, and `model`.
"""
