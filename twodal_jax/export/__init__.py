"""Reconstructions and networks as files that other programs open."""
