"""Serving disks over NBD, the network block device protocol."""
