"""The offline teacher: inference on a bank of views, the cache of its rows, and packing them into a store."""
