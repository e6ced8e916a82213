"""Podman: a netavark plug-in, and a watcher of containers and networks through the program `podman`.

Read `netavark` and `plugin` (calls of netavark), `command` and `report` (the program), `watcher`, `mirror`,
`integration`.
"""
