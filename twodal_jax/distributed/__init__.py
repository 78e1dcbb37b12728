"""Devices and processes: layout of arrays over devices, joining a group of processes, values of its primary process.

Imports no other package of the project.
"""
