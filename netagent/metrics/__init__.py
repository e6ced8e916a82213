"""Metrics: what the agent counts and knows, in OpenMetrics, for Prometheus and programs that read the same.

Read the files `…_families` (what is said of each part), `collect` (which of them there are now), then `routes`.
Values are read when a request comes, from counters and snapshots that exist without it. Imports every part that is
measured; no part imports this.
"""
