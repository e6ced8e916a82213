"""Stand-ins for whole parts, shared by tests of several parts."""
