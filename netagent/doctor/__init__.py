"""What is wrong on this host: facts are gathered, tables of checks decide, nothing is ever changed."""
