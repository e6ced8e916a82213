"""The loop that keeps the kernel equal to the desired state, whoever changed either.

Read `desired` (records to state), `observe` (dumps to state), `plan` (the difference, as `operations`), `apply`
(operations to netlink), `reconciler` (the loop) with `schedule` and `failures`. `drift` says in words what another
program changed. Imports `datapath.netlink` and `datapath.host`.
"""
