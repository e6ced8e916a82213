"""A DNS resolver as a library: own names from a RecordSource for each client, all others from upstream.

`netdns.resolver.Resolver` is the machine, `netdns.server.Server` serves it under trio, `netdns.source` says what a
record source is. README.md beside this package has an example that runs.
"""
