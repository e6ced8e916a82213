"""What the cluster knows: records as bytes, the immutable view of them, publishing, and the journal on disk."""
