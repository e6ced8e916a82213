"""CNI: handles each call of a runtime with the same use-cases as the command line.

Read `protocol` (the call), `configuration` (the request for one container), `plugin`, `answer`.
"""
