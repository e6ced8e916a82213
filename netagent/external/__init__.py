"""Services that are no containers, and names that operators add to a network.

Read `view`, then `additions` (what users change), `turns` (which host finds out about a service), `watch` (what it
finds out) and `runner`, which asks. Imports `registry`, `checks`, and deadlines of netgossip.
"""
