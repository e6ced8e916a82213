"""CNI: each call of a runtime as an order, through the same use-cases as the command line.

Read `protocol` (the call), `configuration` (what the container is to become), `plugin`, `answer`.
"""
