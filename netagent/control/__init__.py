"""The agent's HTTP API on its unix socket: server and client of the commands that netagent.interface declares.

Read `api` (routes to handlers), `conversion` (outside JSON to requests), `request_parsing` (those of use-cases),
`present` (answers), `openapi`, `server` and `client`. Imports `interface`, `registry` and `model`; nothing that acts.
"""
