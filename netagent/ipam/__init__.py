"""Who owns which addresses, and which one an endpoint gets.

Read `space` (who owns which part of a network), `pool` (what is free), `allocation` and `allocations` (both as of
this instant), `allocator` (reserve and release). `space_requests`, `grants` and `messages` are the questions between
hosts, `prefetch` keeps space ready before it is needed. Imports `model` and `registry`.
"""
