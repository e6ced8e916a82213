"""From what is known to what holds: the registry's view turned into kernel state and names."""
