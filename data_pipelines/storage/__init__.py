"""Prepared data sets on disk: manifest, checksums, arrays and shards."""
