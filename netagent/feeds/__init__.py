"""Feeds: what the records say of services, in the words of programs that route to them or watch them. Pure.

Read `table` (what a feed is made of), `services` (our own form), then any of `traefik`, `caddy`, `envoy`,
`prometheus`, and `catalogue` (their names). `host_rule` decides which domains the labels of a network may claim.
Imports only the model: the agent and the resolver process both make feeds. docs/design/0037.
"""
