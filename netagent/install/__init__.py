"""The small files that netagent needs outside its own folders, put where they belong and taken away again."""
