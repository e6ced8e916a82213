"""Kinds of addresses that are no container's.

Read `span` (ranges of addresses as numbers), `loopback` (the host's own), and `tunnel` (those by which hosts reach
each other in the encrypted tunnel).
"""
