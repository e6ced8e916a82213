"""A DNS resolver as a library: own names from a RecordSource for each client, all others from upstream servers.

`netdns.resolver.Resolver` is the state machine, `netdns.server.Server` serves it under trio, `netdns.source` defines
a record source. README.md beside this package has an example that runs.
"""
