"""Names: what each container may look up, and the process that answers.

Read `name_table` (the rows), `zone` (view to rows), `zone_source` and `scope` (what one sandbox is told), `process`
(the resolver process), `supervisor` (the agent's half) and `protocol` between the two. `explain_name` says why a
name has its answer. Imports `model` and `netdns`; only `zone` and `explain_name` know the registry's view.
"""
