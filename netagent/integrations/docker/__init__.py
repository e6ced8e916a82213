"""Docker: a network and IPAM plug-in, and a follower of containers and networks by Docker's API.

Read `protocol` and `plugin` (what dockerd asks), `engine` and `container` (its API), `watcher`, `mirror`,
`integration`.
"""
