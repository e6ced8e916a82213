"""What the cluster knows: records as bytes, and the immutable view of them.

Read `record_codec` (records to bytes), `views` (the values of a view), `view` (`RegistryView`), `derive` (the
indexes, updated incrementally), `state_store` (the newest snapshot, and waiting for it), `publish` (version, journal,
send). `approach` and `links` ask more of a view. Imports `model` and `journal`'s rows; nothing that acts on the
kernel.
"""
