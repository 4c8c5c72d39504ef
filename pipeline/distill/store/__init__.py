"""The soft-target store: its zarr format, attributes, rows in memory, and codecs of logits."""
