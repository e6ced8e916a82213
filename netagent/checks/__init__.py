"""Checks: whether the program in a container works, asked by the container's own host from inside its namespace.

Read `spec` (how a check is written), then `state` (what answers mean for an endpoint's health) and `schedule` (which
check is due). Imports `model`, and the deadlines of netgossip.
"""
