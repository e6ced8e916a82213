"""IPAM: which host owns which addresses, and which one an endpoint gets.

Read `space` (which host owns which part of a network), `pool` (what is free), `allocation` and `allocations` (both at
this instant), `allocator` (reserve and release), `service_offsets` (the same for addresses of services).
`space_requests`, `grants` and `messages` are the requests between hosts, `prefetch` keeps space ready before it is
needed. Imports `model` and `registry`.
"""
