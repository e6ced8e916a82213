"""Podman: a netavark plug-in, Podman networks that mirror ours, and what Podman does not tell by itself."""
