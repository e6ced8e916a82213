"""Facts for the doctor: looks at the host, into containers, at other programs' rules, and asks resolvers.

Nothing here changes anything. Read `host_facts`, `netns_inspect`, `foreign_rules_reader`. Imports `doctor.checks`
for the values that it fills.
"""
