"""Services that are no containers, and names that operators add to a network.

Read `view`, then `additions` (what users change) and `turns` (which host finds out about a service). Imports
`registry`, and deadlines of netgossip.
"""
