"""Docker: a network and IPAM plug-in, and a watcher of containers and networks through Docker's API.

Read `protocol` and `plugin` (calls of dockerd), `engine` and `container` (its API), `watcher`, `mirror`,
`integration`.
"""
