"""Podman: a netavark plug-in, and a follower of containers and networks by the program `podman`.

Read `netavark` and `plugin` (what netavark asks), `command` and `report` (the program), `watcher`, `mirror`,
`integration`.
"""
