"""The agent's HTTP API on its unix socket: server, schema and client.

Read `agent_service` (one method per command), `api` (paths to methods), `request_parsing` (outside JSON to requests),
`schema` and `present` (answers), `server` and `client`. Imports `registry` and `model`; nothing that acts.
"""
