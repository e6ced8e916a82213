"""The web page: the cluster as a browser shows it, read only, served beside `/healthz` on `http`.

Read `access_key` (who may look) and `guard` (what is answered to which browser), then `cluster_tables` (all services
and endpoints, kept up to date), `table_query` and `window` (the rows that one table shows), `map` (who runs where,
who is linked with whom), `address_table`, `flow_table` and `path_matrix` (parts that are read as a whole),
`examination` (how often the doctor runs), `leads` (what a finding names), then `contents` (what each part of the page
shows), `live_stream` (how it follows changes) and `site` (the routes). `static/` is what the browser gets: written by
hand, no build. Imports how `control` presents things, `interface`, `registry`; never what changes anything.
"""
