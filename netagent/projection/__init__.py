"""The registry's view as inputs of datapath, firewall and resolver.

Read `datapath_input`, `firewall_input`, `desired_state` (updated step by step), `controller` (first the kernel, then
the names). Imports `registry`, `datapath`, `firewall` and the resolver's supervisor.
"""
