"""The journal, what this host must not lose: one SQLite file, `state.db`.

Read `rows` (the values), `statements` (the SQL), `writer` (the one thread that writes, with group commit), `journal`
(the interface), `write_behind` (what may be a second late), `reader` (reading the file beside its writer).
"""
