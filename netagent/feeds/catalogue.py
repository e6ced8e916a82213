"""All feeds by name, as users type them and as the path of their URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netagent.feeds.caddy import caddy
from netagent.feeds.envoy import envoy, envoy_endpoints
from netagent.feeds.prometheus import prometheus
from netagent.feeds.services import services
from netagent.feeds.table import Feed
from netagent.feeds.traefik import traefik

FEEDS: Final[Mapping[str, Feed]] = {
    "services": services,
    "traefik": traefik,
    "caddy": caddy,
    "envoy": envoy,
    "envoy-endpoints": envoy_endpoints,
    "prometheus": prometheus,
}

FEEDS_OF_REPLICAS: Final = frozenset({"prometheus"})
"""Feeds that have no use for the own addresses of services: each replica is watched by itself."""
