"""The process around a run: preemption, the lock of a work directory, flags of XLA.

May import `io` and `distributed`.
"""
