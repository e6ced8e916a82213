"""The loop that keeps the kernel equal to the desired state, whichever of them changes.

Read `desired` (records to state), `observe` (dumps to state), `plan` (the difference, as `operations`; `entry_kinds`
has a row for each kind of entry), `apply` (operations to netlink), `reconciler` (the loop) with `schedule` and
`failures`. `drift` describes the changes of other programs. `host_service_routes` keeps the host's own routes
to service addresses, which are at bridges and in no plan. Imports `datapath.netlink` and `datapath.host`.
"""
