"""Disks served over NBD: who may connect, which disks are open for that, and the listener."""
