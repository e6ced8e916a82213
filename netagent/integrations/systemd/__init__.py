"""systemd: a watcher of the units that endpoints were attached to, through the system bus.

Read `messages` (the bus's protocol), then `watcher`.
"""
