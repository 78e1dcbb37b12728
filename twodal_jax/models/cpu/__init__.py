"""Convolutions that are fast on a CPU: channels-first layout and Winograd's algorithm."""
