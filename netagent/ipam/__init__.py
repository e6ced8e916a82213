"""Address space: who owns which part of a network, and which address the next endpoint gets."""
