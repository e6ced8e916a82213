"""From what is known to what holds: the registry's view as inputs of datapath, firewall and resolver.

Read `datapath_input`, `firewall_input`, `desired_state` (kept up to date step by step), `controller` (kernel first,
names after it). Imports `registry`, `datapath`, `firewall` and the resolver's supervisor.
"""
