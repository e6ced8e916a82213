"""The use-cases: attach, detach and link endpoints, create and remove networks; and the garbage collector.

Read `lifecycle` (attach, detach, link, change), `validation` (what is allowed), `context` (locks and common steps),
`records` (what other hosts get), `removal`, `two_phase` (hold, reserve, create, bind, unbind: for Docker), `networks`
and `network_defaults`, `interfaces` (repairs interfaces that other programs change), `garbage_collector` (containers
that vanished). Imports `ipam`, `datapath`, `projection`, `registry`.
"""
