"""Docker: network and IPAM driver, names and health from its API, and its networks kept as ours are."""
