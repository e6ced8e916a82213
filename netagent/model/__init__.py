"""The vocabulary: what hosts tell each other and users ask for, as values. Imports nothing of ours."""
