"""Tables of checks over facts that `doctor.facts` gathered. Pure.

Read `finding` (what a check is), then `host_checks`, `intent_checks`, `cluster_checks`. `kernel_drift`,
`object_checks` and `expected_objects` compare the kernel with the records; `foreign_rules` and `rule_match` judge
the firewall rules of other programs.
"""
