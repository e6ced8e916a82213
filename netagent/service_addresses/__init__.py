"""Addresses of services: given, changed and withdrawn by operators (`use_cases`), and kept in order (`keeper`).

Which of the records are in force says `registry/service_rules`; which offsets a host may use, `ipam/service_offsets`.
Imports `registry`, `ipam`, `journal`, `membership/participation` and the planning of subnets in `endpoints`.
"""
