"""Services that are no containers, and names that operators add to a network.

Read `view`. Imports `registry`.
"""
