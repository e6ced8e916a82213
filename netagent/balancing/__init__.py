"""Which replicas connections to a service's address are led to, from the records to the kernel's tables. Pure.

Read `places` (who has which place of a table), `backends` (which replicas, with which weights), `gone` (which of them
are gone for good) and `tables` (the entries of all services, step by step). Imports model, registry, what operators
added (`external.view`), and the layout of the kernel's tables.
"""
