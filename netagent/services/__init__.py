"""Services as a whole, whichever hosts their replicas are on: addresses of their own, and ports of all hosts.

Read `addresses` (given, changed and withdrawn by operators), `address_keeper` (gives those that labels and networks
ask for, and keeps all in order), and `published` (a port of each host that has a replica). Which of the records are
in force says `registry/service_rules`; which offsets a host may use, `ipam/service_offsets`. Imports `registry`,
`external`, `ipam`, `journal`, `membership/participation`, and of `endpoints` the planning of subnets and what an
endpoint is refused for as well.
"""
