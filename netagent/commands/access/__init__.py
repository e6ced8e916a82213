"""Tokens: the commands that make and revoke them, and the limits that hold requests by them to some networks.

Imports what the commands that are limited import.
"""
