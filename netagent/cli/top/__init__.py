"""`netagent top`: the state of cluster and host on a terminal, live."""
