"""Checks: whether the program in a container works, asked by the container's own host from inside its namespace.

Read `spec` (how a check is written), then `state` (what answers mean for an endpoint's health), `schedule` (which
check is due), `ask`, which asks them, with `http_answer` for what a server answers, and `runner`, which keeps the
endpoints' rows at what was found. Imports `journal`, `registry`, how `datapath` enters a namespace, and the deadlines
of netgossip.
"""
