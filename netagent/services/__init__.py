"""The use-cases on a service as a whole, whichever hosts its replicas are on.

`published_services`: ports of all hosts that lead to it. Imports `endpoints`, for what they refuse as well, and
`registry`.
"""
