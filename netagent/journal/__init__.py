"""What this host must not forget: one SQLite file, `state.db`.

Read `rows` (the values), `statements` (the SQL), `writer` (the one thread that writes, with group commit),
`journal` (the face of it), `write_behind` (what may be a second late), `reader` (the file read beside its writer).
"""
