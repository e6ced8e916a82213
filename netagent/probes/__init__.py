"""Whether other hosts' kernels answer, asked through the overlay itself."""
