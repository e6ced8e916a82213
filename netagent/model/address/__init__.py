"""Addresses: what they are, and whose.

Read `span` (ranges of addresses as numbers), `loopback` (the host's own), `tunnel` (those by which hosts reach each
other in the encrypted tunnel), and `owners` (which host a network's creator gave an address).
"""
