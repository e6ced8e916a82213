"""What users can have done: attach, detach and link endpoints, create and remove networks; and who cleans up.

Read `lifecycle` (attach, detach, link, change), `validation` (what they may), `context` (the single steps),
`two_phase` (reserve, create, bind, remove: for Docker), `networks` and `network_defaults`, `interfaces` (each
interface kept as it was left), `garbage_collector` (what vanished). Imports `ipam`, `datapath`,
`projection.datapath_input`, `registry`.
"""
