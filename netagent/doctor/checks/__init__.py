"""Checks of the doctor as tables of rows, over facts that were gathered. Pure.

Read `finding` (what a check is), `host_checks`, `intent_checks`, `cluster_checks`; `kernel_drift`, `object_checks`
and `expected_objects` compare the kernel with the records, `foreign_rules` and `rule_match` judge other programs'
rules.
"""
