"""netagent: service discovery and overlay networking of containers, one agent per host, no central server."""

__version__ = "0.1.0"
