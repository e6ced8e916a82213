"""Which replicas connections to a service's address are led to, from the records to the kernel's tables. Pure.

May import model, registry, and what operators added (external.view). Read `places`, then `backends`.
"""
