"""Runtimes that start containers: each speaks its own protocol, and ends in the use-cases."""
