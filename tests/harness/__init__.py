"""Hosts, bridges and containers in throw-away network namespaces, for every test that needs a kernel.

Nothing happens in the test's own namespace, and all that a test makes goes when it ends, however it ends. Read
`namespaces` (a namespace, its cables and bridges), then `datapath` (a host's kernel as the agent keeps it),
`firewall` (our tables there) and `docker_user_chain` (our rules beside Docker's). tests/conftest.py has the fixtures
`namespaces` and `wire`. Whole hosts with agents are the lab's (netns-lab).
"""
