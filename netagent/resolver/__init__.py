"""Names: what each container can resolve, and the process that answers.

Read `name_table` (the rows), `zone` (view to rows), `zone_source` and `scope` (the answers for one sandbox),
`process` (the resolver process), `privileged` (what its broker does for it), `supervisor` (the agent's side) and
`protocol` between the two. `explain_name` says why a name has its answer. `feed_entry`, `feed_source` and
`feed_server` are what `zone`, `zone_source` and `process` are, for feeds; `system` is the process to the operating
system. Imports `model`, `feeds` and `netdns`; only `zone`, `feed_entry` and `explain_name` use the registry's view.
"""
