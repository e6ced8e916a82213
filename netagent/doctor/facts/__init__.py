"""Facts for the doctor: reads the host, containers and other programs' rules, and queries resolvers.

Nothing here changes anything. Read `host_facts`, `netns_inspect`, `foreign_rules_reader`. Imports `doctor.checks` for
the types of the facts.
"""
