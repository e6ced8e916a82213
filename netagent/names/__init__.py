"""Names: what each container may look up, and the process that answers."""
