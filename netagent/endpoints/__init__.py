"""The use-cases: attach, detach and link endpoints, create and remove networks; and the garbage collector.

Read `lifecycle` (attach, detach, link, change), `validation` (what is allowed), `context` (the single steps),
`two_phase` (hold, reserve, plug, enter, unplug: for Docker), `networks` and `network_defaults`, `interfaces` (repairs
interfaces that other programs change), `garbage_collector` (containers that vanished). Imports `ipam`, `datapath`,
`projection.datapath_input`, `registry`.
"""
