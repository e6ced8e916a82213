"""Integrations with container runtimes, one folder per runtime.

Read `cluster_access` (what an integration needs of the agent), `labels`, `shim` and `shim_call` (the executable
that CNI and netavark start), then `docker`, `podman`, `cni`, `systemd`. Imports `endpoints`, `control` and
`registry`.
"""
