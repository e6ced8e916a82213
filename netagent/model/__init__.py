"""The vocabulary: what hosts tell each other and what users ask for, as values.

Read `ids`, `records`, `request`, `subnet`. Imports nothing of ours.
"""
